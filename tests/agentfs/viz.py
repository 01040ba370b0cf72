"""Looks at the page in a real browser.

    python3 viz.py example [CHECKPOINTS]        the data of an example history, as JSON
    python3 viz.py check DATA PAGE DIRECTORY    checks the page of that data, and leaves screenshots in DIRECTORY
    python3 viz.py speed PAGE DIRECTORY         checks that a long history scrubs smoothly
"""

import json
import os
import pathlib
import sys

from browser import Browser
from example import example

SHOWN = "document.querySelector('#shown .version')?.textContent"
POSITION = "document.getElementById('position').textContent"
# Elements with text of their own that has too little contrast with what is behind it.
FAINT = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (!own || !node.getClientRects().length || node.closest('script, :disabled, #toast')) continue;
    const style = getComputedStyle(node), svg = node instanceof SVGElement;
    const [a, b] = [light(parse(svg ? style.fill : style.color)), light(behind(node))].sort((a, b) => b - a);
    if ((a + .05) / (b + .05) < 4.5) faint.add(`${node.tagName}.${node.className} ${((a + .05) / (b + .05)).toFixed(2)} ${node.textContent.slice(0, 20)}`);
  }
  return [...faint];
})()"""


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")


class Page:
    def __init__(self, browser, page, directory, data=None):
        self.browser, self.page, self.directory, self.data = browser, page, pathlib.Path(directory), data
        self.url = pathlib.Path(page).absolute().as_uri()
        self.directory.mkdir(parents=True, exist_ok=True)

    def open(self, hash=""):
        self.browser.open(self.url + hash)

    def shows(self, version):
        try:
            self.browser.until(f"{SHOWN} === 'v{version}'")
        except TimeoutError:
            raise SystemExit(f"FAILED: the page shows {self.browser.evaluate(SHOWN)}, not v{version}")

    def shoot(self, name):
        self.browser.evaluate("document.getElementById('toast').classList.remove('on')")
        self.browser.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 180)))")
        self.browser.screenshot(self.directory / f"{name}.png")

    def keys_move_through_versions(self):
        self.open()
        last = len(self.data["checkpoints"])
        self.shows(last)
        for key, version in [("ArrowLeft", last - 1), ("ArrowRight", last), ("ArrowRight", last), ("Home", 1), ("ArrowLeft", 1), ("ArrowRight", 2),
                             ("PageDown", 12), ("PageUp", 2), ("End", last)]:
            self.browser.key(key)
            self.shows(version)
        self.browser.until(f"location.hash === '#v{last}'")
        now = self.browser.evaluate("document.getElementById('slider').getAttribute('aria-valuenow')")
        check(now == str(last), f"the slider's value is {now}")

    def the_hash_names_the_version(self):
        self.open("#v35")
        self.shows(35)
        self.browser.evaluate("location.hash = '#v7'")
        self.shows(7)
        self.open("#v999&file=%E0%A4%A")
        self.shows(len(self.data["checkpoints"]))

    def the_mouse_scrubs(self):
        self.open("#v35")
        box = self.browser.evaluate("(box => [box.left, box.right, box.top])(document.getElementById('slider').getBoundingClientRect())")
        self.browser.click(box[0] + 2, box[2] + 40)
        self.shows(1)
        hint = self.browser.evaluate("document.getElementById('hint').textContent")
        check(hint == "v1 14:01 init", f"the pointer is told {hint!r}")
        self.browser.click(box[1] - 2, box[2] + 40)
        self.shows(len(self.data["checkpoints"]))
        for button, version in [("first", 1), ("next", 2), ("last", len(self.data["checkpoints"])), ("back", len(self.data["checkpoints"]) - 1)]:
            self.browser.click_on(f"#{button}")
            self.shows(version)

    def every_checkpoint_is_shown_whole(self):
        self.open("#v1")
        for checkpoint in self.data["checkpoints"]:
            self.shows(checkpoint["version"])
            shown = self.browser.evaluate("document.getElementById('shown').innerText")
            check(checkpoint["message"] in shown, f"no message: {shown}")
            check("[object" not in shown and "undefined" not in shown and "NaN" not in shown, shown)
            prompt = self.browser.evaluate("document.querySelector('#shown blockquote')?.textContent ?? null")
            check(prompt == checkpoint["prompt"], f"the prompt of v{checkpoint['version']} is {prompt}")
            check(("by no tool call" in shown or "by restoring v27" in shown) == (checkpoint["tool"] is None), f"who made v{checkpoint['version']}: {shown}")
            files = self.browser.evaluate("[...document.querySelectorAll('#shown .file')].map(file => file.dataset.path)")
            check(files == [diff["path"] for diff in checkpoint["diffs"]], f"the files of v{checkpoint['version']} are {files}")
            added = self.browser.evaluate("document.querySelectorAll('#shown .row.add').length")
            expected = sum(diff["added"] or 0 for diff in checkpoint["diffs"])
            check(added == expected or expected > 300, f"v{checkpoint['version']} has {added} added rows, not {expected}")
            self.browser.key("ArrowRight")
        check(self.browser.evaluate("document.title") == "myapp - agentfs", "a prompt has become a script")
        check(self.browser.evaluate("document.scripts.length") == 2, "a prompt has become an element")

    def long_diffs_are_shown_on_demand(self):
        self.open("#v26")
        self.shows(26)
        rows = "document.querySelectorAll('[data-path=\"package-lock.json\"] .row').length"
        check(self.browser.evaluate(rows) == 400, f"{self.browser.evaluate(rows)} rows at first")
        self.browser.click_on("[data-path='package-lock.json'] .say button")
        self.browser.until(f"{rows} === 1501")
        said = self.browser.evaluate("document.querySelector('[data-path=\"package-lock.json\"] .say').textContent")
        check("agentfs diff v25 v26" in said, f"a cut diff is not said to be one: {said}")
        self.browser.evaluate("location.hash = '#v22'")
        self.shows(22)
        binary = self.browser.evaluate("document.querySelector('[data-path=\"assets/logo.png\"]').innerText")
        check("Binary file" in binary, binary)
        self.browser.evaluate("location.hash = '#v24'")
        self.shows(24)
        text = self.browser.evaluate("document.querySelector('#shown [data-path^=notes]').textContent")
        check("\u202e" not in text and "\x1b" not in text and "\u240d" in text, f"controls are shown raw: {text!r}")

    def a_file_has_a_history(self):
        path = "src/auth.ts"
        versions = [one["version"] for one in self.data["checkpoints"] if any(diff["path"] == path for diff in one["diffs"])]
        self.open("#v35")
        first = self.browser.evaluate("document.querySelector('#files li button').innerText.split(/\\s+/)")
        check(first[:2] == [path, f"{len(versions)}×"], f"most changed is {first}")
        self.browser.click_on(f"#files [data-path='{path}']")
        listed = "[...document.querySelectorAll('#versions [data-at] .mono')].map(one => one.textContent).filter(text => text[0] === 'v')"
        self.browser.until("document.querySelectorAll('#versions [data-at]').length > 0")
        check(self.browser.evaluate(listed) == [f"v{version}" for version in reversed(versions)], f"versions {self.browser.evaluate(listed)}")
        bright = self.browser.evaluate("document.querySelectorAll('svg .dot:not(.off)').length")
        check(bright == len(versions), f"{bright} dots are bright, not {len(versions)}")
        self.browser.key("Home")
        for version in versions[:6]:
            self.shows(version)
            first = self.browser.evaluate("document.querySelector('#shown .file').dataset.path")
            check(first == path, f"the file comes first, not {first}")
            self.browser.key("ArrowRight")
        self.browser.until(f"location.hash.includes('file=src%2Fauth.ts') && location.hash.startsWith('#v{versions[6]}')")
        self.browser.click_on("#versions li:nth-child(2) button")
        self.shows(versions[-2])
        current = self.browser.evaluate("[...document.querySelectorAll('#versions [aria-current=true]')].length")
        check(current == 1, f"{current} versions are current")
        self.shoot("history")
        self.browser.key("Escape")
        self.browser.until("document.getElementById('versions').hidden && !document.querySelector('svg .off')")

    def words_find_checkpoints(self):
        self.open("#v60")
        number = lambda: int(self.browser.evaluate("document.querySelectorAll('svg .dot:not(.off)').length"))
        points = self.data["checkpoints"]
        second = self.data["sessions"][1]["id"]
        for words, wanted in [
            ("prompt:readme", lambda one: "README" in (one["prompt"] or "")),
            ("file:keys.ts tool:write", lambda one: any("keys.ts" in diff["path"] for diff in one["diffs"]) and one["tool"] == "Write"),
            (f"session:{second[:8]}", lambda one: one["session_id"] == second),
            ("tool:bash", lambda one: one["tool"] == "Bash"),
            ("no such words", lambda one: False),
        ]:
            self.browser.key("/")
            self.browser.evaluate("document.activeElement.select()")
            self.browser.type(words)
            expected = sum(map(wanted, points))
            check(number() == expected, f"{words!r} finds {number()}, not {expected}")
            self.browser.key("Enter")
        check("/0 found" in self.browser.evaluate(POSITION), self.browser.evaluate(POSITION))
        self.browser.key("ArrowLeft")
        self.browser.key("Escape")
        check(number() == len(points), "Escape shows all again")
        self.browser.click_on("#names button:nth-child(2)")
        check(number() == sum(second in [one["session_id"], *(other["session_id"] for other in one["shared_with"])] for one in points), "a session's own")
        self.shoot("session")

    def keys_copy_commands(self):
        self.browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        self.open("#v35")
        self.shows(35)
        for key, command in [("r", "agentfs restore v35"), ("D", "agentfs diff v34 v35"), ("b", "agentfs branch v35 --name from-v35")]:
            self.browser.key(key)
            self.browser.until("document.getElementById('toast').classList.contains('on')")
            self.browser.until(f"navigator.clipboard.readText().then(text => text === '{command}')")
            text = self.browser.evaluate(f"document.querySelector('[data-key={key.upper()}]').nextSibling.textContent")
            check(text == command, f"the page offers {text}")
        self.browser.key("?")
        check(self.browser.evaluate("document.getElementById('keys').open"), "? shows the keys")
        self.shoot("keys")
        self.browser.key("Escape")
        self.browser.until("!document.getElementById('keys').open")

    def everything_has_a_name_and_contrast(self):
        for dark in [False, True]:
            self.browser.window(1280, 860, dark=dark)
            for hash in ["#v35", "#v22", "#v26&find=src", "#v24&file=src%2Fauth.ts"]:
                self.open(hash)
                self.browser.until(f"{SHOWN} !== undefined")
                faint = self.browser.evaluate(FAINT)
                check(not faint, f"too little contrast, dark {dark}: {faint}")
        nodes = self.browser.call("Accessibility.getFullAXTree")["nodes"]
        roles = {}
        for node in nodes:
            role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "")
            roles.setdefault(role, []).append(name)
        for role in ["button", "slider", "searchbox", "region", "article", "complementary"]:
            check(roles.get(role), f"there is no {role}")
            check(all(roles[role]), f"a {role} has no name: {roles[role]}")

    def phones_need_no_sideways_scrolling(self):
        for dark in [False, True]:
            self.browser.window(360, 740, phone=True, dark=dark)
            for version in [1, 20, 22, 24, 26, 35, 45, 60]:
                self.open(f"#v{version}")
                self.shows(version)
                wide = self.browser.evaluate("[document.documentElement.scrollWidth, innerWidth, document.body.scrollWidth]")
                check(max(wide) <= 360, f"v{version} is {wide} wide")
            self.open("#v36&file=src%2Fauth.ts")
            self.shoot("phone-history-dark" if dark else "phone-history")
            self.open("#v35")
            self.shoot("phone-dark" if dark else "phone")
            self.browser.evaluate("document.querySelector('#shown .file').scrollIntoView({block: 'center'})")
            self.shoot("phone-diff-dark" if dark else "phone-diff")
        self.open("#v35")
        box = self.browser.evaluate("(box => [box.left, box.right, box.top])(document.getElementById('slider').getBoundingClientRect())")
        self.browser.touch((box[0] + 150, box[2] + 40), (box[0] + 80, box[2] + 40), (box[0] + 4, box[2] + 40))
        self.shows(1)

    def little_data_is_enough(self):
        self.open()
        for checkpoints in [[], [{"id": "cp_1", "version": 1}], [{"id": "cp_1", "version": 1, "timestamp": "2026-01-27T14:00:00.000Z", "shared_with": [{"session_id": None}], "diffs": [{"path": "a", "status": "D", "added": 0, "removed": 4, "text": None, "cut": True}]}] * 2]:
            for key in ["checkpoints", "sessions"]:
                text = json.dumps({key: checkpoints, "project": None, "checkpoints": checkpoints})
                page = self.directory / "little" / "page.html"
                page.parent.mkdir(exist_ok=True)
                whole = pathlib.Path(self.page).read_text(encoding="utf-8")
                start = whole.index('id="data">') + len('id="data">')
                page.write_text(whole[:start] + text + whole[whole.index("</script>", start):], encoding="utf-8")
                self.browser.open(page.absolute().as_uri())
                shown = self.browser.evaluate("document.body.innerText")
                check("undefined" not in shown and "NaN" not in shown and "Invalid" not in shown, shown)
                for key in ["ArrowLeft", "Home", "PageDown", "r", "Escape"]:
                    self.browser.key(key)
        self.browser.until("document.querySelector('#shown .say').textContent.startsWith('The diff is not on this page')")
        check("agentfs diff" not in self.browser.evaluate("document.querySelector('#shown').innerText"), "there is nothing to compare with")

    def schemes_differ(self):
        seen = {}
        for dark in [False, True]:
            self.browser.window(1280, 860, dark=dark)
            self.open("#v35")
            self.shows(35)
            seen[dark] = self.browser.evaluate("getComputedStyle(document.body).backgroundColor")
            self.shoot("desktop-dark" if dark else "desktop")
            self.open("#v26")
            self.shows(26)
            self.browser.evaluate("document.querySelector('#shown .file').scrollIntoView({block: 'center'})")
            self.shoot("diff-dark" if dark else "diff")
        check(seen[False] != seen[True], f"one background for both schemes: {seen}")
        self.browser.window(1280, 860)
        self.open("#v35")
        self.browser.window(800, 1100)
        self.browser.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        white = self.browser.evaluate("getComputedStyle(document.querySelector('#shown')).backgroundColor")
        check(white == "rgb(255, 255, 255)", f"paper is {white}")
        check(not self.browser.evaluate("document.querySelector('aside').getClientRects().length"), "lists are printed")
        self.shoot("print")
        self.browser.call("Emulation.setEmulatedMedia", media="")


def check_page(data, page, directory):
    browser = Browser()
    try:
        with open(data, encoding="utf-8") as file:
            checks = Page(browser, page, directory, json.load(file))
        browser.window(1280, 860)
        checks.keys_move_through_versions()
        checks.the_hash_names_the_version()
        checks.the_mouse_scrubs()
        checks.every_checkpoint_is_shown_whole()
        checks.long_diffs_are_shown_on_demand()
        checks.a_file_has_a_history()
        checks.words_find_checkpoints()
        checks.keys_copy_commands()
        checks.everything_has_a_name_and_contrast()
        checks.phones_need_no_sideways_scrolling()
        checks.schemes_differ()
        checks.little_data_is_enough()
        complained_of_nothing(browser)
    finally:
        browser.close()


def complained_of_nothing(browser):
    check(not browser.complaints, f"the browser complains: {browser.complaints}")
    outside = [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))]
    check(not outside, f"the page asked for {outside}")
    check({url.split("#")[0].rsplit("/", 1)[-1] for url in browser.requests if url.startswith("file:")} <= {"page.html"}, str(browser.requests))


def speed(page, directory):
    browser = Browser()
    try:
        checks = Page(browser, page, directory)
        browser.window(1280, 860)
        checks.open("#v500")
        checks.shows(500)
        steps = browser.evaluate("""(async () => {
            const steps = [];
            for (let at = 0; at < 200; at++) {
                const begun = performance.now();
                document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
                await new Promise(requestAnimationFrame);
                steps.push(performance.now() - begun);
            }
            return steps.sort((a, b) => a - b)[100];
        })()""")
        checks.shows(700)
        find = browser.evaluate("""(() => {
            const begun = performance.now(), find = document.getElementById('find');
            for (const text of ['a', 'au', 'aut', 'auth']) { find.value = text; find.dispatchEvent(new Event('input')); }
            return (performance.now() - begun) / 4;
        })()""")
        print(f"a step takes {steps:.1f} ms, a letter of the filter {find:.1f} ms")
        check(steps < 60 and find < 150, "1,000 checkpoints are not smooth")
        checks.shoot("thousand")
        browser.window(360, 740, phone=True, dark=True)
        checks.shoot("thousand-phone")
        complained_of_nothing(browser)
    finally:
        browser.close()


def main():
    command, *arguments = sys.argv[1:] or [""]
    if command == "example":
        json.dump(example(*map(int, arguments)), sys.stdout)
    elif command == "check" and len(arguments) == 3:
        check_page(*arguments)
    elif command == "speed" and len(arguments) == 2:
        speed(*arguments)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONIOENCODING", "utf-8")
    main()

"""The data of an example history for the page: two sessions at work on a small web service.

Everything is drawn from one fixed seed. It holds what a page may meet: a hostile prompt, calls of two sessions at once, changes by no call, a binary file, a name
that is no UTF-8, a diff that was cut.
"""

import difflib
import hashlib
import random
from datetime import datetime, timedelta, timezone

SESSIONS = ["7a1e9c2e-41d7-4b0e-9c55-0d8f3a6b2e11", "c03b5f7d-9a2c-4e61-8f14-6be2d1905a47"]
PROMPTS = [
    [
        "Set up a small token service: TypeScript, no framework, tests with node:test.",
        "make the auth more robust",
        "Add proper error handling to the auth module. Every failure must tell the caller what went wrong and "
        "whether trying again makes sense:\n\n1. expired tokens\n2. malformed tokens\n3. the key server does "
        "not answer\n\nKeep the public interface as it is.",
        "The tests are flaky on CI, find out why and fix it.",
    ],
    [
        "Write the README: what it is, how to run it, how to rotate keys.",
        "What does </script><script>document.title='broken'</script> do in the session name? Escape it.",
        "rename Session to Login everywhere & update the docs",
    ],
]
WORK = [
    ("src/auth.ts", 9), ("src/test.ts", 6), ("src/server.ts", 5), ("src/errors.ts", 4), ("README.md", 4),
    ("src/keys.ts", 3), ("package.json", 2), ("docs/rotation.md", 2), ("src/session/store.ts", 2),
    ("src/components/administration/rotation/KeyRotationStatusTable.test.tsx", 1),
]
CODE = """\
export async function verify(token: string): Promise<Claims> {
  const [head, body, signature] = token.split(".");
  if (!signature) throw new AuthError("malformed", "Token has no signature");
  const key = await keys.find(decode(head).kid);
  if (token.expired()) throw new AuthError('Token expired');
  return claims(body, { issuer: config.issuer, clockTolerance: 5 });
}
const retry = async <T>(work: () => Promise<T>, times = 3): Promise<T> => {
  for (let attempt = 1; ; attempt++) {
    try { return await work(); } catch (error) { if (attempt >= times) throw error; }
  }
};
  log.warn({ kid, attempt }, "key server did not answer");
  response.writeHead(401, { "content-type": "application/json" });
  if (a < b && c > d) return "<b>&amp;</b>";
  assert.equal(await status("/login", { token }), 401);
  // The clock of the key server may be some seconds ahead of ours.
\treturn new Map([...known].filter(([, key]) => key.validUntil > Date.now()));
  await store.put(session.id, session, { ttl: config.sessionLifetime });
""".splitlines()
MESSAGES = [
    "robust auth", "error handling", "retry the key server", "added tests", "fixed edge case", "refactored tests",
    "cleanup imports", "tell expired from malformed tokens", "one place for errors", "log failures with their cause",
]


def example(checkpoints=60):
    draw = random.Random(20260127)
    contents = {}
    time = datetime(2026, 1, 27, 14, 0, 3, tzinfo=timezone.utc)
    made = []
    for version in range(1, checkpoints + 1):
        share = version / checkpoints
        one = 1 if share > 0.45 and (version // 4) % 2 else 0
        time += timedelta(seconds=draw.choice([8, 20, 45, 90, 200, 420]))
        if version == int(checkpoints * 0.7):
            time += timedelta(hours=17)
        prompts = PROMPTS[one]
        prompt = prompts[min(len(prompts) - 1, int((share if not one else (share - 0.45) / 0.55) * len(prompts)))]
        checkpoint = {
            "id": "cp_" + hashlib.sha1(str(version).encode()).hexdigest()[:12],
            "version": version,
            "parent": made[-1]["id"] if made else None,
            "timestamp": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "message": "init" if version == 1 else draw.choice(MESSAGES),
            "trigger": "post_tool",
            "agent": "claude-code",
            "session_id": SESSIONS[one],
            "tool": "Write" if version < 4 else draw.choice(["Edit", "Edit", "Edit", "Write", "MultiEdit"]),
            "tool_use_id": f"toolu_{version:04}",
            "tool_input": None,
            "prompt": prompt,
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "transcript_path": f"/home/ada/.claude/projects/-home-ada-myapp/{SESSIONS[one]}.jsonl",
            "shared_with": [],
            "pinned": version == 12,
            "restored_from": made[-4]["id"] if version == 31 else None,
            "context": None,
        }
        diffs = changes(draw, contents, version)
        path = diffs[0]["path"]
        checkpoint["tool_input"] = {"file_path": f"/home/ada/myapp/{path}", "old_string": draw.choice(CODE), "new_string": "\n".join(draw.sample(CODE, 3))}
        if version % 9 == 0:
            checkpoint.update(tool="Bash", message="Bash npm test", tool_input={"command": "npm test -- --watch=false", "description": "Run the tests"})
            if one:
                checkpoint["shared_with"] = [{"session_id": SESSIONS[0], "tool": "Edit", "tool_use_id": "toolu_x"}]
        if version % 13 == 7:
            checkpoint.update(trigger="pre_tool", agent=None, session_id=None, tool=None, tool_use_id=None, tool_input=None, prompt=None,
                              prompt_sha256=None, transcript_path=None, message="changed outside of any tool call")
        if version == 31:
            checkpoint.update(message="restored v27", trigger="manual", tool=None, tool_input=None)
        checkpoint["files_changed"] = [{key: diff[key] for key in ("path", "status", "added", "removed")} for diff in diffs]
        checkpoint["diffs"] = diffs
        made.append(checkpoint)
    return {
        "project": "myapp",
        "dir": "/home/ada/src/myapp",
        "generated": (time + timedelta(minutes=9)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sessions": [{"id": session, "prompts": prompts} for session, prompts in zip(SESSIONS, PROMPTS)],
        "checkpoints": made,
    }


def changes(draw, contents, version):
    paths, weights = zip(*WORK)
    wanted = {"package.json", "src/server.ts", "README.md"} if version == 1 else {draw.choices(paths, weights)[0] for _ in range(draw.choice([1, 1, 1, 2, 3]))}
    diffs = [change(draw, contents, path, version) for path in sorted(wanted)]
    if version == 22:
        diffs.append({"path": "assets/logo.png", "status": "A", "added": None, "removed": None, "text": None})
    if version == 24:
        diffs.append({"path": "notes/caf\ufffd \u202egpj.txt", "status": "A", "added": 1, "removed": 0, "text": "--- /dev/null\n+++ b/notes\n@@ -0,0 +1 @@\n+\u2028plain\x1b[31m\r\n"})
    if version == 26:
        lines = "".join(f'+    "{number:05}": "node_modules/package-{number}",\n' for number in range(1500))
        diffs.append({"path": "package-lock.json", "status": "A", "added": 9000, "removed": 0, "text": "@@ -0,0 +1,9000 @@\n" + lines, "cut": True})
    return diffs


def change(draw, contents, path, version):
    before = contents.get(path, [])
    after = list(before)
    for _ in range(draw.choice([1, 1, 2, 3])):
        at = draw.randrange(len(after) + 1)
        kind = draw.random()
        if kind < 0.25 and after:
            del after[at : at + draw.randrange(1, 6)]
        elif kind < 0.55 and at < len(after):
            after[at] = after[at].replace("token", f"token{version}").replace("const", "let") + f" // v{version}"
        else:
            after[at:at] = draw.sample(CODE, draw.randrange(2, 9))
    if after == before:
        after.append(f"// v{version}")
    contents[path] = after
    lines = list(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm=""))
    added = sum(line.startswith("+") for line in lines[2:])
    removed = sum(line.startswith("-") for line in lines[2:])
    status = "M" if before else "A"
    return {"path": path, "status": status, "added": added, "removed": removed, "text": "\n".join(lines) + "\n"}

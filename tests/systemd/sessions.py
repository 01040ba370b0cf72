"""Sessions as a user of some months has them: sessions.py DIRECTORY"""

import os
import random
import sys

chance = random.Random(5)
os.chdir(sys.argv[1])
then = 1_700_000_000_123_456_789


def words(count):
    return " ".join(chance.choice(["the", "file", "error", "build", "cellar", "Ω", "\\u2603"]) for _ in range(count))


def put(path, data, mode=0o600):
    global then
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)
    then += 86_400_000_000_007
    os.utime(path, ns=(then, then))


def session(lines):
    return "".join(f'{{"type":"user","n":{n},"text":"{words(chance.randrange(4, 200))}"}}\n' for n in range(lines)).encode()


for project in ["-home-alice-one", "-home-alice-two", "-home-alice-with space-é"]:
    for number, lines in enumerate([1, 12, 300, 2500]):
        put(f"{project}/{number:08x}-0000-4000-8000-000000000000.jsonl", session(lines))
    bundle = f"{project}/00000001-0000-4000-8000-000000000000"
    put(f"{bundle}/subagents/agent-0badcafe.jsonl", session(20))
    put(f"{bundle}/tool-results/toolu_01.txt", words(3000).encode(), 0o644)
    put(f"{project}/memory/MEMORY.md", b"# Memory\n", 0o644)
put("-home-alice-one/empty.jsonl", b"")
put("-home-alice-one/torn.jsonl", session(3)[:-20])
put("-home-alice-one/read-only.jsonl", session(5), 0o400)
put("-home-alice-two/bytes.jsonl", chance.randbytes(300_000))
os.symlink("MEMORY.md", "-home-alice-two/memory/link.md")
os.mkdir("-home-alice-empty", 0o755)

"""An agent that edits a file as Claude Code does, with the hooks that its settings name: agent.py PROJECT TRANSCRIPT"""

import json
import os
import re
import subprocess
import sys

project, transcript = sys.argv[1:]
session = os.path.basename(transcript).removesuffix(".jsonl")
settings = json.load(open(os.path.expanduser("~/.claude/settings.json")))


def say(role, content):
    line = {"type": role, "sessionId": session, "cwd": project, "message": {"role": role, "content": content}}
    with open(transcript, "a") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


def event(name, tool=None, **fields):
    base = {"session_id": session, "transcript_path": transcript, "cwd": project, "hook_event_name": name}
    base |= {"prompt_id": "p1"} | fields | ({"tool_name": tool} if tool else {})
    for group in settings["hooks"].get(name, []):
        if tool and "matcher" in group and not re.search(group["matcher"], tool):
            continue
        for hook in group["hooks"]:
            text = json.dumps(base)
            ran = subprocess.run(hook["command"], shell=True, input=text, capture_output=True, text=True, cwd=project)
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", ""), ran


def call(number, tool, tool_input, act):
    use = f"toolu_{number:04}"
    event("PreToolUse", tool, tool_input=tool_input, tool_use_id=use)
    say("assistant", [{"type": "tool_use", "id": use, "name": tool, "input": tool_input}])
    act()
    event("PostToolUse", tool, tool_input=tool_input, tool_response={}, tool_use_id=use)
    say("user", [{"type": "tool_result", "tool_use_id": use, "content": "done"}])


def edit():
    with open(f"{project}/main.rs", "a") as file:
        file.write("// no panic here\n")


event("SessionStart", source="startup")
event("UserPromptSubmit", prompt="make it robust, please")
say("user", "make it robust, please")
say("assistant", [{"type": "text", "text": "I take the panic out."}])
call(1, "Read", {"file_path": f"{project}/main.rs"}, lambda: None)
call(2, "Edit", {"file_path": f"{project}/main.rs", "old_string": "", "new_string": "// no panic here\n"}, edit)
call(3, "Bash", {"command": "rm README"}, lambda: os.remove(f"{project}/README"))
event("Stop", stop_hook_active=False)
event("SessionEnd", reason="other")

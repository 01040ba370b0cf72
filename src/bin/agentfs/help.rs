//! Every command of `agentfs` with its options, and what is told about them.

use crate::usage::{Group, Opt, Program, Usage, Variable};

pub const PROGRAM: Program = Program {
    name: "agentfs",
    about: "Checkpoints of a working directory that know which session, tool and prompt made each change.",
    groups: &[
        Group {
            title: "Projects:",
            commands: &[INIT, STATUS, LIST, RELOCATE, FORGET, OPEN, CLOSE],
        },
        Group {
            title: "Checkpoints:",
            commands: &[CHECKPOINT, LOG, CHANGES, DIFF, SHOW, RESTORE, UNDO, EXPORT],
        },
        Group {
            title: "Why:",
            commands: &[BLAME, HISTORY, SESSIONS, SESSION, TIMELINE, VIZ],
        },
        Group {
            title: "Branches:",
            commands: &[BRANCH, BRANCHES, SWITCH],
        },
        Group {
            title: "By themselves:",
            commands: &[INSTALL_HOOKS, HOOK, WATCH],
        },
        Group {
            title: "The history itself:",
            commands: &[SYNC, CLONE, GC, VERIFY],
        },
        Group {
            title: "Help:",
            commands: &[COMPLETIONS, HELP],
        },
    ],
    variables: &[
        Variable {
            name: "AGENTFS_HOME",
            about: "where the histories are kept (~/.local/share/agentfs)",
        },
        Variable {
            name: "AGENTFS_PAGER",
            about: "shows long output on a terminal ($PAGER, less)",
        },
        Variable {
            name: "NO_COLOR",
            about: "no colours, if set",
        },
        Variable {
            name: "CLAUDE_CELLAR_STORE_DIR",
            about: "where transcripts are read when they are not mounted",
        },
    ],
    exit_codes: "0 done, 1 failed, 2 wrong usage",
};

const DIRECTORY: Opt = Opt::valued(
    "directory",
    "DIR|NAME",
    "The project, instead of the one around this directory",
)
.short('C');
const JSON: Opt = Opt::flag("json", "Print JSON");
const DRY_RUN: Opt = Opt::flag("dry-run", "Only print what would be done");

/// A command without operands whose options are the common ones.
const fn plain(name: &'static str, about: &'static str, summary: &'static str) -> Usage {
    Usage {
        name,
        about,
        operands: "",
        choices: &[],
        summary,
        details: "",
        options: &[DIRECTORY, JSON],
    }
}

const INIT: Usage = Usage {
    name: "init",
    about: "Begin to record a directory",
    operands: "[NAME] [DIR]",
    choices: &[],
    summary: "Begin to record a directory, and make the first checkpoint of it.",
    details: "\
The directory is this one, or DIR; the project is called NAME, or after the directory. The command
is also called manage. The history is kept in AGENTFS_HOME, never in the directory.

Everything is recorded, what git ignores too, except directories that tools make again
(node_modules, target, .venv, caches) and files above 50 MiB. A file .agentfsignore, in the syntax
of .gitignore, changes that: `build/` leaves out more, `!dist/` takes something back.",
    options: &[
        DIRECTORY,
        JSON,
        Opt::flag(
            "force",
            "Record a very large directory, or one on a network file system",
        ),
        Opt::valued(
            "size",
            "SIZE",
            "Accepted for old scripts: no space is set aside",
        ),
        Opt::valued(
            "band-size",
            "SIZE",
            "Accepted for old scripts: nothing is cut into bands",
        ),
    ],
};

const STATUS: Usage = Usage {
    details: "\
Branch, newest checkpoint, what changed since, what is left out, and whatever went wrong in a hook.",
    ..plain(
        "status",
        "Show where the project stands and what is left out",
        "Show where the project stands.",
    )
};

const LIST: Usage = Usage {
    options: &[JSON],
    ..plain(
        "list",
        "List the projects",
        "List the directories that are recorded.",
    )
};

const RELOCATE: Usage = Usage {
    operands: "DIR",
    ..plain(
        "relocate",
        "Tell that a project was moved to DIR",
        "Tell that a project was moved: its history now belongs to DIR.",
    )
};

const FORGET: Usage = Usage {
    operands: "[DIR]",
    details: "The history stays on the disk; the command says where.",
    ..plain(
        "forget",
        "Stop recording a directory; the history is kept",
        "Stop recording a directory.",
    )
};

const OPEN: Usage = Usage {
    operands: "[NAME]",
    ..plain(
        "open",
        "Nothing to do: work in the directory",
        "Accepted for old scripts: there is nothing to mount.",
    )
};

const CLOSE: Usage = Usage {
    operands: "[NAME]",
    ..plain(
        "close",
        "Nothing to do either",
        "Accepted for old scripts: there is nothing to unmount.",
    )
};

const CHECKPOINT: Usage = Usage {
    name: "checkpoint",
    about: "Record the state of the directory now",
    operands: "[MESSAGE]",
    choices: &[],
    summary: "Record the state of the directory now. Prints the new checkpoint and what changed.",
    details: "\
When nothing has changed there is no new checkpoint, unless it is to be pinned. CONTEXT is a JSON
object; its members agent, session_id, tool, tool_input, prompt and transcript_path count as the
options of these names do, the rest is kept as it is.",
    options: &[
        DIRECTORY,
        JSON,
        Opt::valued(
            "context",
            "CONTEXT",
            "What is known about the change, as JSON",
        ),
        Opt::valued("tool", "NAME", "The tool that made it"),
        Opt::valued("session", "ID", "The session it belongs to"),
        Opt::valued("agent", "NAME", "Who made it"),
        Opt::valued("prompt", "TEXT", "What was asked for"),
        Opt::flag("pin", "Never let gc remove this checkpoint"),
    ],
};

const REFERENCES: &str = "\
A checkpoint CP is named by its id (cp_..., or the beginning of it), by its number (v12), by its
distance from the newest (@-10; @ is the newest), by time (@5m is the state five minutes ago), or
by a branch.";

const LOG: Usage = Usage {
    name: "log",
    about: "List checkpoints, the newest first",
    operands: "[NAME]",
    choices: &[],
    summary: "List the checkpoints of the current branch, the newest first.",
    details: REFERENCES,
    options: &[
        DIRECTORY,
        JSON,
        Opt::valued("number", "N", "At most so many").short('n'),
        Opt::valued("session", "ID", "Only those of a session"),
        Opt::valued(
            "file",
            "FILE",
            "Only those that changed a file or directory",
        ),
    ],
};

const CHANGES: Usage = Usage {
    name: "changes",
    about: "List the files that changed since some time",
    operands: "",
    choices: &[],
    summary: "List the files that changed since some time, up to now.",
    details: REFERENCES,
    options: &[
        DIRECTORY,
        JSON,
        Opt::valued(
            "since",
            "CP",
            "A checkpoint, or a time such as 5m, 2h, 3d (@-1)",
        ),
    ],
};

const DIFF: Usage = Usage {
    name: "diff",
    about: "Show what changed between two checkpoints",
    operands: "CP [CP2]",
    choices: &[],
    summary: "Show what changed from one checkpoint to another, or to the directory as it is now.",
    details: REFERENCES,
    options: &[DIRECTORY, JSON],
};

const SHOW: Usage = Usage {
    name: "show",
    about: "Print a file as it was: FILE@CP",
    operands: "FILE@CP",
    choices: &[],
    summary: "Print a file as it was in a checkpoint, byte for byte; or all about a checkpoint.",
    details: "\
`agentfs show src/app.ts@-10` prints the file as it was ten checkpoints ago. With a checkpoint
alone, as in `agentfs show v12`, what is known about that one and the difference it made.",
    options: &[DIRECTORY, JSON],
};

const RESTORE: Usage = Usage {
    name: "restore",
    about: "Bring an earlier state back",
    operands: "CP [PATH...]",
    choices: &[],
    summary: "Bring the directory, or some paths in it, back to what they were in a checkpoint.",
    details: "\
First the present state becomes a checkpoint, so that `agentfs undo` takes the restore back. What no
checkpoint holds (excluded, too large, unreadable) is neither overwritten nor deleted.",
    options: &[DIRECTORY, JSON, DRY_RUN],
};

const UNDO: Usage = Usage {
    name: "undo",
    about: "Take back the last restore or tool call",
    operands: "",
    choices: &[],
    summary: "Take back the last restore, or the changes of the last tool call.",
    details: "Only the files that it changed are touched. An undo can be undone.",
    options: &[DIRECTORY, JSON, DRY_RUN],
};

const EXPORT: Usage = Usage {
    operands: "CP DIR",
    ..plain(
        "export",
        "Write a checkpoint into a new directory",
        "Write all files of a checkpoint into a directory, which must be empty or new.",
    )
};

const BLAME: Usage = Usage {
    name: "blame",
    about: "Tell why a line is there",
    operands: "FILE[:LINE[-LINE]]",
    choices: &[],
    summary: "Tell which checkpoint, tool call and prompt each line of a file comes from.",
    details: "\
For a single line the prompt and what the agent said are quoted from the session's transcript. The
file may be of an earlier time, as in `src/app.ts@v12:42`.",
    options: &[DIRECTORY, JSON],
};

const HISTORY: Usage = Usage {
    name: "history",
    about: "List everything that happened to a file",
    operands: "FILE",
    choices: &[],
    summary: "List every checkpoint that changed a file, with session, tool and lines changed.",
    details: "",
    options: &[
        DIRECTORY,
        JSON,
        Opt::flag(
            "blame",
            "Tell for each part of the file as it is now where it comes from",
        ),
    ],
};

const SESSIONS: Usage = plain(
    "sessions",
    "List the sessions that changed something",
    "List the sessions that made checkpoints, the newest first.",
);

const SESSION: Usage = Usage {
    name: "session",
    about: "Show what a session did",
    operands: "ID",
    choices: &[],
    summary: "Show what a session was asked, what it changed and which tools it used.",
    details: "The beginning of the id is enough.",
    options: &[DIRECTORY, JSON, Opt::flag("timeline", "Draw it along time")],
};

const TIMELINE: Usage = plain(
    "timeline",
    "Draw the checkpoints along time",
    "Draw the checkpoints of the current branch along time, session by session.",
);

const VIZ: Usage = Usage {
    name: "viz",
    about: "Write a page that scrubs through the history",
    operands: "",
    choices: &[],
    summary: "Write one self-contained HTML page that scrubs through the history in a browser.",
    details: "Prints where the page is. It works without a network, by keyboard and on a phone.",
    options: &[
        DIRECTORY,
        JSON,
        Opt::valued("session", "ID", "Only one session"),
        Opt::valued(
            "output",
            "FILE",
            "Where to write it, if not in the history itself",
        ),
    ],
};

const BRANCH: Usage = Usage {
    name: "branch",
    about: "Begin another line at a checkpoint",
    operands: "CP",
    choices: &[],
    summary: "Begin another line of checkpoints at one. Nothing in the directory changes.",
    details: REFERENCES,
    options: &[DIRECTORY, JSON, Opt::valued("name", "N", "What to call it")],
};

const BRANCHES: Usage = plain("branches", "List the branches", "List the branches.");

const SWITCH: Usage = Usage {
    operands: "BRANCH",
    options: &[DIRECTORY, JSON, DRY_RUN],
    details: "First the present state becomes a checkpoint of the branch that is left.",
    ..plain(
        "switch",
        "Go on from another branch",
        "Bring the directory to the state a branch ends in, and go on from there.",
    )
};

const INSTALL_HOOKS: Usage = Usage {
    name: "install-hooks",
    about: "Let Claude Code make checkpoints",
    operands: "",
    choices: &[],
    summary: "Add agentfs to the hooks in Claude Code's settings: a checkpoint at every tool call.",
    details: "Everything else in the settings stays as it is, byte for byte.",
    options: &[
        DIRECTORY,
        Opt::flag(
            "project",
            "In .claude/settings.json of the project, not in your own settings",
        ),
        Opt::flag(
            "user",
            "In your own settings, for all projects (the default)",
        ),
        Opt::flag("remove", "Take exactly these hooks out again"),
    ],
};

const HOOK: Usage = Usage {
    name: "hook",
    about: "What Claude Code runs at its events",
    operands: "[EVENT]",
    choices: &[],
    summary: "Read a hook's JSON from standard input and record what it tells.",
    details: "\
Always exits 0, prints nothing, takes at most two seconds, and does nothing where no project is.
Failures are in the store's log, which `agentfs status` shows. EVENT is needed only for input
without hook_event_name: pre-tool, post-tool, session-end.",
    options: &[],
};

const WATCH: Usage = Usage {
    options: &[
        DIRECTORY,
        Opt::valued(
            "quiet",
            "SECONDS",
            "How long nothing must change before a checkpoint (2)",
        ),
    ],
    details: "\
For editors and agents without hooks. While changes go on without a pause there is a checkpoint
every minute, and a last one when the command is interrupted. Where the system does not let every
directory be watched, it looks every ten seconds.",
    ..plain(
        "watch",
        "Make a checkpoint after each quiet moment",
        "Make a checkpoint each time the directory has changed and is quiet again, until interrupted.",
    )
};

const SYNC: Usage = Usage {
    name: "sync",
    about: "Share the history: push, pull, status",
    operands: "push|pull|status [REMOTE]",
    choices: &["push", "pull", "status"],
    summary: "Share the history with other machines through any git remote or path.",
    details: "\
REMOTE is whatever git can push to or pull from, an address or a path, with your own transport and
credentials; it is remembered. A new path becomes a repository at the first push. Checkpoints hold
what the directory held: secrets in it too.

pull brings the current branch forward, and the directory with it, if nothing in the directory has
changed since its newest checkpoint. Otherwise the directory is not touched, and what the remote has
is kept as a branch of its own, to go to with `agentfs switch`.

Where two machines both made checkpoints both lines are kept: the one that comes second is pushed as
BRANCH-HOST, and nothing on the remote is ever replaced. What gc removed here stays on the remote.
status changes nothing and gets nothing.",
    options: &[DIRECTORY, JSON],
};

const CLONE: Usage = Usage {
    name: "clone",
    about: "Get a project with its history from a remote",
    operands: "[DIR]",
    choices: &[],
    summary: "Get a project with all its history from a git remote or path, and its newest files.",
    details: "\
DIR, named after the remote if it is not given, must be empty or new. The branch is the one that the
remote names as its HEAD, else main. REMOTE is remembered for `agentfs sync`.",
    options: &[
        JSON,
        Opt::valued("from", "REMOTE", "Where the history is"),
        Opt::valued(
            "name",
            "NAME",
            "What to call the project (after the directory)",
        ),
    ],
};

const GC: Usage = Usage {
    name: "gc",
    about: "Remove old checkpoints",
    operands: "",
    choices: &[],
    summary: "Remove old checkpoints, and make the history small.",
    details: "\
Without options nothing is removed, only packed. Pinned checkpoints and the ends of branches are
always kept; with both options only what both let go is removed. Ids and numbers of what is kept
stay the same; what a removed checkpoint changed is told of the next one that is kept.",
    options: &[
        DIRECTORY,
        JSON,
        Opt::valued("keep-last", "N", "Keep the newest N of each branch"),
        Opt::valued("older-than", "TIME", "Remove only what is older, as in 30d"),
        DRY_RUN,
    ],
};

const VERIFY: Usage = Usage {
    details: "\
Tells which files of which checkpoints are damaged, and exits with 1. Damaged objects are put aside,
so that the next checkpoint stores again what still exists in the directory.",
    ..plain(
        "verify",
        "Check the whole history",
        "Check that every checkpoint in the history is whole.",
    )
};

const COMPLETIONS: Usage = Usage {
    name: "completions",
    about: "Print completions for a shell",
    operands: "SHELL",
    choices: &["bash", "zsh", "fish"],
    summary: "Print completions for bash, zsh or fish.",
    details: "",
    options: &[],
};

const HELP: Usage = Usage {
    name: "help",
    about: "Show help for a command",
    operands: "[COMMAND]",
    choices: &[],
    summary: "Show all commands, or one with its options.",
    details: "",
    options: &[Opt::flag("man", "Print the manual page")],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_told_about_in_whole_sentences() {
        for usage in PROGRAM.commands() {
            assert!(
                !usage.about.is_empty() && !usage.about.ends_with('.'),
                "{}",
                usage.name
            );
            assert!(usage.summary.ends_with('.'), "{}", usage.name);
            for option in usage.options {
                assert!(!option.about.is_empty(), "{} --{}", usage.name, option.name);
            }
        }
    }
}

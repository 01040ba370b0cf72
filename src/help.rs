//! Every command of `claude-cellar` with its options, and what is told about them.

use crate::usage::{Group, Opt, Program, Usage, Variable};

pub const PROGRAM: Program = Program {
    name: "claude-cellar",
    about: "Keeps Claude Code sessions zstd-compressed behind a mount that looks like the plain directory.",
    groups: &[
        Group {
            title: "Set up:",
            commands: &[INSTALL, UNINSTALL, MIGRATE_STORE],
        },
        Group {
            title: "The mount:",
            commands: &[MOUNT, UMOUNT, STATUS, STATS, LOG],
        },
        Group {
            title: "Sessions:",
            commands: &[RESUME, VERIFY, EXPORT, IMPORT, TRASH],
        },
        Group {
            title: "Files that are not mounted:",
            commands: &[LIST, COMPRESS, DECOMPRESS, ARCHIVE],
        },
        Group {
            title: "Help:",
            commands: &[COMPLETIONS, HELP],
        },
    ],
    variables: &[
        variable(
            "CLAUDE_CELLAR_MOUNT_DIR",
            "where sessions appear (~/.claude/projects)",
        ),
        variable(
            "CLAUDE_CELLAR_STORE_DIR",
            "where they are stored (~/.local/share/claude-cellar/store)",
        ),
        variable(
            "CLAUDE_CELLAR_SCRATCH_DIR",
            "plain copies outside the mount ($XDG_RUNTIME_DIR/claude-cellar/scratch)",
        ),
        variable(
            "CLAUDE_CELLAR_SEAL_AFTER",
            "seconds without a write until a session is sealed (600)",
        ),
        variable(
            "CLAUDE_CELLAR_BUNDLES",
            "raw, or compress to store sub-agent sessions compressed too (raw)",
        ),
        variable(
            "CLAUDE_CELLAR_TRASH_DAYS",
            "days that deleted sessions are kept; 0: deleted means deleted (0)",
        ),
        variable(
            "CLAUDE_CELLAR_MAX_FDS",
            "most files open at once through the mount (no limit)",
        ),
        variable(
            "CLAUDE_CELLAR_CLAUDE_BIN",
            "the Claude binary that resume starts (as install found it, or claude)",
        ),
        variable(
            "CLAUDE_CELLAR_LOG",
            "off, error, warn, info, debug or trace (info)",
        ),
    ],
    exit_codes: "0 done, 1 failed, 2 wrong usage, 3 not mounted",
};

const fn variable(name: &'static str, about: &'static str) -> Variable {
    Variable { name, about }
}

const JSON: Opt = Opt::flag("json", "Print one JSON object");

const INSTALL: Usage = Usage {
    name: "install",
    about: "Take in the sessions there are and start at every login",
    operands: "",
    choices: &[],
    summary: "Take in the sessions there are, then mount the cellar now and at every login.",
    details: "\
Prints what it is about to do, then does it. It may be interrupted and run again.

Where the store goes: without sessions, or with project directories of their own, to the default
place or where CLAUDE_CELLAR_STORE_DIR says. If exactly one entry of the projects directory is a
symbolic link to a directory, the directory it leads to becomes the store, and what lies in it
goes into a project directory named after the link. A directory that is a store already is used
as it is.

Writes and starts the systemd user service claude-cellar.service, with the settings of this
environment in it.",
    options: &[
        Opt::flag("no-systemd", "Start the daemon without a systemd service"),
        Opt::valued(
            "claude-bin",
            "PATH",
            "The Claude binary that resume is to start",
        ),
        Opt::flag("dry-run", "Only print what would be done"),
    ],
};

const UNINSTALL: Usage = Usage {
    name: "uninstall",
    about: "Stop and remove the service; the store is kept",
    operands: "",
    choices: &[],
    summary: "Stop the service and remove it. The store is kept.",
    details: "",
    options: &[Opt::flag(
        "restore",
        "First write every session back as a plain file",
    )],
};

const MIGRATE_STORE: Usage = Usage {
    name: "migrate-store",
    about: "Move a directory of sessions into the store, compressed on the way",
    operands: "",
    choices: &[],
    summary: "Move a directory of sessions into the store, compressed on the way.",
    details: "\
Takes plain and compressed sessions, bundles and everything else, each under its own name; what is
on both sides is merged and nothing is lost. The store must not be mounted meanwhile. It may be
interrupted and run again.",
    options: &[
        Opt::valued(
            "from",
            "DIR",
            "Take what is in DIR (the projects directory)",
        ),
        Opt::flag("dry-run", "Only print what would be done"),
    ],
};

const MOUNT: Usage = Usage {
    name: "mount",
    about: "Mount the store where Claude Code keeps its sessions",
    operands: "",
    choices: &[],
    summary: "Mount the store where Claude Code keeps its sessions.",
    details: "\
Returns when the mount can be used; a daemon goes on serving it.
A mount that a killed daemon left behind is cleared first.",
    options: &[
        Opt::flag(
            "foreground",
            "Stay in the foreground, log to stderr too, tell systemd when ready",
        ),
        Opt::flag(
            "adopt",
            "Take in what lies beneath the mountpoint instead of refusing to hide it",
        ),
        Opt::valued(
            "store-dir",
            "DIR",
            "Where sessions are stored ($CLAUDE_CELLAR_STORE_DIR)",
        ),
        Opt::valued(
            "mount-dir",
            "DIR",
            "Where they appear ($CLAUDE_CELLAR_MOUNT_DIR)",
        ),
        Opt::flag(
            "allow-other",
            "Let other users in, as far as the files' permissions go",
        ),
    ],
};

const UMOUNT: Usage = Usage {
    name: "umount",
    about: "Unmount it",
    operands: "",
    choices: &[],
    summary: "Unmount the cellar and wait until its daemon has ended.",
    details: "",
    options: &[
        Opt::valued(
            "mount-dir",
            "DIR",
            "The mount to end ($CLAUDE_CELLAR_MOUNT_DIR)",
        ),
        Opt::flag(
            "lazy",
            "Detach at once even if files are open; they stay usable until closed",
        ),
    ],
};

const STATUS: Usage = Usage {
    name: "status",
    about: "Show whether all is well",
    operands: "",
    choices: &[],
    summary: "Show whether the cellar is mounted and well. Exits with 0 if it is mounted, 3 if not.",
    details: "\
Works when the daemon is down, too. The last line is \"all is well\" if it is: mounted, nothing in
.cellar/recovered, no warning. Warned of is a file system with little space left for the store: less
than twice the largest file that waits to be compressed, or less than 5 % and less than 5 GiB. And a
daemon that runs another build than this command, as it does after an update until it is restarted.

With --json:
  {\"mounted\":BOOL,\"alive\":BOOL,\"stale\":BOOL,\"pid\":N|null,\"mount_dir\":TEXT,
   \"store_dir\":TEXT,\"sessions\":N,\"stored_bytes\":N,\"original_bytes\":N,\"unsealed\":N,
   \"free_bytes\":N|null,\"recovered\":N,\"unsealed_bytes\":N,\"raw\":N,\"raw_bytes\":N,
   \"trash\":N,\"low_space\":BOOL,\"outdated\":BOOL}
unsealed counts the files that wait for the background compression and unsealed_bytes what of them
waits; raw and raw_bytes those among them that are not compressed at all. Files inside bundles count
with CLAUDE_CELLAR_BUNDLES=compress. trash counts the deleted sessions that are kept, recovered what
lies in .cellar/recovered; low_space and outdated are the warnings.",
    options: &[JSON],
};

const STATS: Usage = Usage {
    name: "stats",
    about: "Show what the cellar saves",
    operands: "",
    choices: &[],
    summary: "Show how large the sessions are, how much is stored, and what compressing bundles would save.",
    details: "\
Works with and without a mount, and decodes nothing. The largest come first. BUNDLES is what lies in
the directories of a project, beside its sessions; a directory that belongs to no session has a line
of its own with --by session. What CLAUDE_CELLAR_BUNDLES=compress would save is an estimate: as if
the .jsonl files in bundles compressed like the sealed sessions of this store.

With --json:
  {\"by\":\"project\"|\"session\",
   \"rows\":[{\"name\":TEXT,\"sessions\":N,\"original_bytes\":N,\"stored_bytes\":N,
            \"allocated_bytes\":N,\"ratio\":N.NN,\"bundle_bytes\":N}],
   \"total\":{as a row, without the name},
   \"unknown\":N,
   \"bundles\":{\"stored_bytes\":N,\"allocated_bytes\":N,\"plain_jsonl_bytes\":N,
              \"compressed_jsonl_original_bytes\":N,\"compressed_jsonl_bytes\":N,\"other_bytes\":N,
              \"estimated_saving_bytes\":N|null}}
allocated_bytes counts whole blocks, as du does; unknown counts the sessions whose size only
decoding could tell, and whose original_bytes are those stored; estimated_saving_bytes is null while
no session is sealed",
    options: &[
        Opt::valued(
            "by",
            "WHAT",
            "One line for each project (the default) or session",
        ),
        JSON,
    ],
};

const LOG: Usage = Usage {
    name: "log",
    about: "Show the daemon's log",
    operands: "",
    choices: &[],
    summary: "Show the end of the daemon's log.",
    details: "",
    options: &[Opt::valued("tail", "N", "Show the last N lines (40)")],
};

const RESUME: Usage = Usage {
    name: "resume",
    about: "Resume a session in the directory it belongs to",
    operands: "ID",
    choices: &[],
    summary: "Resume the session whose name begins with ID, in the directory it belongs to.",
    details: "\
Mounts the cellar first if need be, and becomes `claude --resume`. `-- PROJECT/ID` tells sessions of
the same ID apart. Exits with 2 and a table if ID may be several sessions, with 1 if there is none.

Claude Code is --claude-bin, else $CLAUDE_CELLAR_CLAUDE_BIN, else what install found, else the
claude in $PATH. If DIR is another projects directory than the mount, nothing is mounted.",
    options: &[
        Opt::valued(
            "projects-dir",
            "DIR",
            "Look for it in DIR (the mount directory)",
        ),
        Opt::valued("claude-bin", "PATH", "The Claude binary to start"),
    ],
};

const VERIFY: Usage = Usage {
    name: "verify",
    about: "Decode every stored byte and report damage",
    operands: "[PATH...]",
    choices: &[],
    summary: "Decode every stored byte and report damage. Exits with 0 if all is sound, 1 if not.",
    details: "\
Checks the whole store unless given stores, project directories or sessions. Without --repair it
changes nothing and may run while the store is mounted.

With --repair, which needs the store unmounted, a damaged session gets a new store file with all
that can be decoded; the old one is moved to .cellar/recovered. Torn appends and older forms of a
session are moved there too. A session of which nothing can be decoded stays as it is. Exits with
1 if anything is wrong still.

With --json:
  {\"files\":N,\"original_bytes\":N,\"stored_bytes\":N,\"recovered\":N,
   \"findings\":[{\"path\":TEXT,\"offset\":N,\"what\":TEXT}]}
and with --repair also, before the last brace:
   ,\"repaired\":[{\"path\":TEXT,\"what\":TEXT,\"kept\":TEXT|null}],
   \"not_repaired\":[{\"path\":TEXT,\"why\":TEXT}]
offset counts bytes of the store file; recovered counts what lies in .cellar/recovered. With
--repair the findings are those that remain, and kept is where the old bytes are.",
    options: &[
        Opt::flag(
            "repair",
            "Make damaged sessions readable again; old bytes are kept in .cellar/recovered",
        ),
        JSON,
    ],
};

const EXPORT: Usage = Usage {
    name: "export",
    about: "Copy every session out as a plain file",
    operands: "DIR",
    choices: &[],
    summary: "Copy everything in the store to DIR as plain files, with their times.",
    details: "\
Works with and without a mount, and changes nothing in the store. DIR must be empty or missing, or
from an export before: what is there and equal stays, so an interrupted export may be run again.
Nothing is overwritten. A damaged session is named and left out; the exit code is then 1.",
    options: &[],
};

const IMPORT: Usage = Usage {
    name: "import",
    about: "Copy plain files in",
    operands: "DIR",
    choices: &[],
    summary: "Copy everything in DIR, a projects directory, into the cellar, with its times.",
    details: "\
Works with and without a mount. What is in the cellar already is merged, never replaced.",
    options: &[],
};

const TRASH: Usage = Usage {
    name: "trash",
    about: "List, restore or remove deleted sessions",
    operands: "ACTION [ID...]",
    choices: &["list", "restore", "prune"],
    summary: "List, restore or remove the sessions that were deleted while CLAUDE_CELLAR_TRASH_DAYS was set.",
    details: "\
ACTION is list, restore or prune.

restore takes the beginnings of IDs, or `-- PROJECT/ID` where two projects have the same. It brings
the last deletion of each back with its bundle, and overwrites nothing. What comes back counts as
modified now, so that the next cleanup does not take it again. It exits with 2 if an ID may be
several, with 1 if there is none.

prune removes what is older than CLAUDE_CELLAR_TRASH_DAYS, as the daemon does when it starts and
once a day. It refuses where the variable is not set.",
    options: &[],
};

const LIST: Usage = Usage {
    name: "list",
    about: "List the sessions in a directory",
    operands: "DIR",
    choices: &[],
    summary: "List the sessions in a directory and in the directories directly in it, newest first.",
    details: "\
DIR is a store, a project directory, or any other; links in it are not followed.
Inside a mount, STORED is the space allocated in the store.",
    options: &[],
};

const COMPRESS: Usage = Usage {
    name: "compress",
    about: "Compress one session",
    operands: "FILE",
    choices: &[],
    summary: "Compress one session to FILE.zst, check that it decodes to the same bytes, then delete FILE.",
    details: "\
FILE ends in .jsonl. Nothing is overwritten, and a file that changes meanwhile is left alone.",
    options: &[Opt::flag("keep", "Keep FILE")],
};

const DECOMPRESS: Usage = Usage {
    name: "decompress",
    about: "Write a compressed session back as a plain file",
    operands: "FILE [OUT]",
    choices: &[],
    summary: "Write a compressed session back as a plain file. The compressed one stays.",
    details: "\
FILE ends in .jsonl.zst. OUT is FILE without .zst unless given, and is never overwritten.",
    options: &[],
};

const ARCHIVE: Usage = Usage {
    name: "archive",
    about: "Compress all sessions in a directory but the newest",
    operands: "DIR",
    choices: &[],
    summary: "Compress all sessions in a directory but the newest, as compress does.",
    details: "\
Takes the sessions in DIR and in the directories directly in it, such as the project directories of
a projects directory; links in it are not followed. The newest are those of all of them together
that were modified last, compressed or not. A session that cannot be compressed stays as it is and
does not stop the others; the exit code is then 1.",
    options: &[
        Opt::valued("keep", "N", "Leave the N newest as they are (5)"),
        Opt::flag("dry-run", "Only print what would be done"),
    ],
};

const COMPLETIONS: Usage = Usage {
    name: "completions",
    about: "Print completions for a shell",
    operands: "SHELL",
    choices: &["bash", "zsh", "fish"],
    summary: "Print completions for a shell: bash, zsh or fish.",
    details: "\
Each shell finds them where it looks for such files:
  bash  claude-cellar completions bash > ~/.local/share/bash-completion/completions/claude-cellar
  zsh   claude-cellar completions zsh > DIR/_claude-cellar, with DIR in $fpath
  fish  claude-cellar completions fish > ~/.config/fish/completions/claude-cellar.fish",
    options: &[],
};

const HELP: Usage = Usage {
    name: "help",
    about: "Show this text, or `help COMMAND` that command's",
    operands: "[COMMAND]",
    choices: &[],
    summary: "Show all commands, or what one does.",
    details: "",
    options: &[
        Opt::flag("man", "Print the manual page, for man -l"),
        Opt::valued(
            "unit",
            "PATH",
            "Print the systemd user service that runs PATH, for packages",
        ),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_wider_than_a_terminal() {
        let texts = PROGRAM.commands().map(|usage| PROGRAM.help(usage));
        for text in texts.chain([PROGRAM.overview()]) {
            for line in text.lines() {
                assert!(line.len() <= 100, "{line}");
            }
            assert!(!text.contains(" \n"), "{text}");
        }
    }
}

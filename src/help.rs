//! The text of every `--help`, kept together so that the commands read alike.

/// Every command, in the order the overview lists them, with the options it takes.
pub const COMMANDS: &[Usage] = &[
    Usage {
        name: "mount",
        options: &["foreground", "store-dir", "mount-dir", "allow-other"],
        text: MOUNT,
    },
    Usage {
        name: "umount",
        options: &["mount-dir", "lazy"],
        text: UMOUNT,
    },
    Usage {
        name: "status",
        options: &["json"],
        text: STATUS,
    },
    Usage {
        name: "list",
        options: &[],
        text: LIST,
    },
    Usage {
        name: "compress",
        options: &["keep"],
        text: COMPRESS,
    },
    Usage {
        name: "decompress",
        options: &[],
        text: DECOMPRESS,
    },
    Usage {
        name: "verify",
        options: &["json"],
        text: VERIFY,
    },
    Usage {
        name: "log",
        options: &["tail"],
        text: LOG,
    },
    Usage {
        name: "help",
        options: &[],
        text: OVERVIEW,
    },
];

pub struct Usage {
    pub name: &'static str,
    pub options: &'static [&'static str],
    pub text: &'static str,
}

pub const OVERVIEW: &str = "\
Keeps Claude Code sessions zstd-compressed behind a mount that looks like the plain directory.

Usage: claude-cellar COMMAND [OPTIONS]

The mount:
  mount       Mount the store where Claude Code keeps its sessions
  umount      Unmount it
  status      Show whether all is well
  log         Show the daemon's log

Files that are not mounted:
  list        List the sessions in a directory
  compress    Compress one session
  decompress  Write a compressed session back as a plain file
  verify      Decode every stored byte and report damage

  help        Show this text, or `help COMMAND` that command's

Options:
  -h, --help     Show help, for every command
  -V, --version  Show the version

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not mounted

Environment:
  CLAUDE_CELLAR_MOUNT_DIR    where sessions appear (~/.claude/projects)
  CLAUDE_CELLAR_STORE_DIR    where they are stored (~/.local/share/claude-cellar/store)
  CLAUDE_CELLAR_SCRATCH_DIR  plain copies outside the mount ($XDG_RUNTIME_DIR/claude-cellar/scratch)
  CLAUDE_CELLAR_SEAL_AFTER   seconds without a write until a session is sealed (600)
  CLAUDE_CELLAR_BUNDLES      raw, or compress to store sub-agent sessions compressed too (raw)
  CLAUDE_CELLAR_MAX_FDS      most sessions open at once (no limit)
  CLAUDE_CELLAR_LOG          off, error, warn, info, debug or trace (info)
";

const MOUNT: &str = "\
Mount the store where Claude Code keeps its sessions.

Usage: claude-cellar mount [OPTIONS]

Returns when the mount can be used; a daemon goes on serving it.
A mount that a killed daemon left behind is cleared first.

Options:
      --foreground     Stay in the foreground, log to stderr too, tell systemd when ready
      --store-dir DIR  Where sessions are stored ($CLAUDE_CELLAR_STORE_DIR)
      --mount-dir DIR  Where they appear ($CLAUDE_CELLAR_MOUNT_DIR)
      --allow-other    Let other users in, as far as the files' permissions go
  -h, --help           Show this text
";

const UMOUNT: &str = "\
Unmount the cellar and wait until its daemon has ended.

Usage: claude-cellar umount [OPTIONS]

Options:
      --mount-dir DIR  The mount to end ($CLAUDE_CELLAR_MOUNT_DIR)
      --lazy           Detach at once even if files are open; they stay usable until closed
  -h, --help           Show this text
";

const STATUS: &str = "\
Show whether the cellar is mounted and well. Exits with 0 if it is mounted, 3 if not.

Usage: claude-cellar status [OPTIONS]

Options:
      --json  Print one JSON object
  -h, --help  Show this text
";

const LIST: &str = "\
List the sessions in a directory and in the directories directly in it, newest first.

Usage: claude-cellar list DIR

DIR is a store, a project directory, or any other; links in it are not followed.
Inside a mount, STORED is the space allocated in the store.

Options:
  -h, --help  Show this text
";

const COMPRESS: &str = "\
Compress one session to FILE.zst, check that it decodes to the same bytes, then delete FILE.

Usage: claude-cellar compress [OPTIONS] FILE

FILE ends in .jsonl. Nothing is overwritten, and a file that changes meanwhile is left alone.

Options:
      --keep  Keep FILE
  -h, --help  Show this text
";

const DECOMPRESS: &str = "\
Write a compressed session back as a plain file. The compressed one stays.

Usage: claude-cellar decompress FILE [OUT]

FILE ends in .jsonl.zst. OUT is FILE without .zst unless given, and is never overwritten.

Options:
  -h, --help  Show this text
";

const VERIFY: &str = "\
Decode every stored byte and report damage. Exits with 0 if all is sound, 1 if not.

Usage: claude-cellar verify [OPTIONS] [PATH...]

Checks the whole store unless given stores, project directories or sessions. Changes nothing,
and may run while the store is mounted.

Options:
      --json  Print one JSON object:
              {\"files\":N,\"original_bytes\":N,\"stored_bytes\":N,\"recovered\":N,
               \"findings\":[{\"path\":TEXT,\"offset\":N,\"what\":TEXT}]}
              offset counts bytes of the store file; recovered counts what lies in
              .cellar/recovered
  -h, --help  Show this text
";

const LOG: &str = "\
Show the end of the daemon's log.

Usage: claude-cellar log [OPTIONS]

Options:
      --tail N  Show the last N lines (40)
  -h, --help    Show this text
";

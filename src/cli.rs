//! The commands, as values.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::completions::Shell;
use crate::exit::Failure;
use crate::help::PROGRAM;
use crate::usage::{self, Given, Parsed, one_of};

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Install {
        no_systemd: bool,
        claude_bin: Option<PathBuf>,
        dry_run: bool,
    },
    Uninstall {
        restore: bool,
    },
    MigrateStore {
        from: Option<PathBuf>,
        dry_run: bool,
    },
    Mount {
        foreground: bool,
        adopt: bool,
        allow_other: bool,
        store_dir: Option<PathBuf>,
        mount_dir: Option<PathBuf>,
    },
    Umount {
        mount_dir: Option<PathBuf>,
        lazy: bool,
    },
    Status {
        json: bool,
    },
    Stats {
        by: By,
        json: bool,
    },
    Log {
        tail: usize,
    },
    Resume {
        id: OsString,
        projects_dir: Option<PathBuf>,
        claude_bin: Option<PathBuf>,
    },
    Verify {
        paths: Vec<PathBuf>,
        repair: bool,
        json: bool,
    },
    Export {
        dir: PathBuf,
    },
    Import {
        dir: PathBuf,
    },
    Trash(Trash),
    List {
        dir: PathBuf,
    },
    Compress {
        file: PathBuf,
        keep: bool,
    },
    Decompress {
        file: PathBuf,
        out: Option<PathBuf>,
    },
    Archive {
        dir: PathBuf,
        keep: usize,
        dry_run: bool,
    },
    Completions(Shell),
    ManPage,
    /// The service that runs a program.
    Unit(PathBuf),
    /// The text to show.
    Help(String),
    Version,
}

/// What `stats` has a line for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Project,
    Session,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Trash {
    List,
    Restore(Vec<OsString>),
    Prune,
}

const DEFAULT_TAIL: usize = 40;
const DEFAULT_KEEP: usize = 5;

/// Reads the arguments that follow the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let mut given = match usage::parse(&PROGRAM, args)? {
        Parsed::Run(given) => given,
        Parsed::Help(text) => return Ok(Command::Help(text)),
        Parsed::Version => return Ok(Command::Version),
    };
    Ok(match given.usage.name {
        "install" => Command::Install {
            no_systemd: given.flag("no-systemd"),
            claude_bin: given.path("claude-bin")?,
            dry_run: given.flag("dry-run"),
        },
        "uninstall" => Command::Uninstall {
            restore: given.flag("restore"),
        },
        "migrate-store" => Command::MigrateStore {
            from: given.path("from")?,
            dry_run: given.flag("dry-run"),
        },
        "mount" => Command::Mount {
            foreground: given.flag("foreground"),
            adopt: given.flag("adopt"),
            allow_other: given.flag("allow-other"),
            store_dir: given.path("store-dir")?,
            mount_dir: given.path("mount-dir")?,
        },
        "umount" => Command::Umount {
            mount_dir: given.path("mount-dir")?,
            lazy: given.flag("lazy"),
        },
        "status" => Command::Status {
            json: given.flag("json"),
        },
        "stats" => Command::Stats {
            by: by(&given)?,
            json: given.flag("json"),
        },
        "log" => Command::Log {
            tail: given.number("tail")?.unwrap_or(DEFAULT_TAIL),
        },
        "resume" => Command::Resume {
            id: given.operand(),
            projects_dir: given.path("projects-dir")?,
            claude_bin: given.path("claude-bin")?,
        },
        "verify" => Command::Verify {
            paths: given.more_operands().into_iter().map(Into::into).collect(),
            repair: given.flag("repair"),
            json: given.flag("json"),
        },
        "export" => Command::Export {
            dir: given.operand().into(),
        },
        "import" => Command::Import {
            dir: given.operand().into(),
        },
        "trash" => Command::Trash(trash(&mut given)?),
        "list" => Command::List {
            dir: given.operand().into(),
        },
        "compress" => Command::Compress {
            file: given.operand().into(),
            keep: given.flag("keep"),
        },
        "decompress" => Command::Decompress {
            file: given.operand().into(),
            out: given.more_operands().pop().map(Into::into),
        },
        "archive" => Command::Archive {
            dir: given.operand().into(),
            keep: given.number("keep")?.unwrap_or(DEFAULT_KEEP),
            dry_run: given.flag("dry-run"),
        },
        "completions" => Command::Completions(one_of("shell", &given.operand(), Shell::NAMES)?),
        _ if given.flag("man") => Command::ManPage,
        _ => match (given.path("unit")?, given.more_operands().pop()) {
            (Some(program), _) => Command::Unit(program),
            (None, Some(name)) => Command::Help(PROGRAM.help(PROGRAM.find(&name)?)),
            (None, None) => Command::Help(PROGRAM.overview()),
        },
    })
}

fn by(given: &Given) -> Result<By, Failure> {
    let known = [("project", By::Project), ("session", By::Session)];
    match given.value("by") {
        Some(word) => one_of("kind of line", word, &known),
        None => Ok(By::Project),
    }
}

fn trash(given: &mut Given) -> Result<Trash, Failure> {
    let action = given.operand();
    let ids = given.more_operands();
    let actions = [("list", 'l'), ("restore", 'r'), ("prune", 'p')];
    match (one_of("action", &action, &actions)?, ids.is_empty()) {
        ('l', true) => Ok(Trash::List),
        ('p', true) => Ok(Trash::Prune),
        ('r', false) => Ok(Trash::Restore(ids)),
        ('r', true) => Err(Failure::usage("trash restore needs the ID of a session")
            .advise("see `claude-cellar trash list`")),
        _ => Err(Failure::usage(format!(
            "trash {} takes no ID",
            action.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use std::os::unix::ffi::OsStringExt;

    fn parse_words(line: &str) -> Result<Command, Failure> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn complaint(line: &str) -> String {
        let failure = parse_words(line).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        failure.message
    }

    #[test]
    fn options_and_operands() {
        assert_eq!(
            parse_words("mount --foreground --store-dir=/s --mount-dir /m"),
            Ok(Command::Mount {
                foreground: true,
                adopt: false,
                allow_other: false,
                store_dir: Some("/s".into()),
                mount_dir: Some("/m".into()),
            })
        );
        assert_eq!(
            parse_words("decompress a b"),
            Ok(Command::Decompress {
                file: "a".into(),
                out: Some("b".into()),
            })
        );
        assert_eq!(
            parse_words("compress -- --keep"),
            Ok(Command::Compress {
                file: "--keep".into(),
                keep: false,
            })
        );
        assert_eq!(parse_words("log"), Ok(Command::Log { tail: 40 }));
        assert_eq!(
            parse_words("verify a --repair b"),
            Ok(Command::Verify {
                paths: vec!["a".into(), "b".into()],
                repair: true,
                json: false,
            })
        );
        assert_eq!(
            parse_words("stats --by project --by session"),
            Ok(Command::Stats {
                by: By::Session,
                json: false,
            })
        );
        assert_eq!(
            parse_words("trash restore a b"),
            Ok(Command::Trash(Trash::Restore(vec!["a".into(), "b".into()])))
        );
    }

    #[test]
    fn a_path_may_be_any_bytes() {
        let name = OsString::from_vec(vec![b'a', 0xff]);
        assert_eq!(
            parse(["list".into(), name.clone()]),
            Ok(Command::List { dir: name.into() })
        );
    }

    #[test]
    fn mistakes_name_the_nearest_thing() {
        assert!(complaint("moutn").ends_with("did you mean mount?"));
        assert!(complaint("unmount").ends_with("did you mean umount?"));
        assert!(complaint("decomp").ends_with("did you mean decompress?"));
        assert!(complaint("mount --foregruond").ends_with("did you mean --foreground?"));
        assert!(complaint("mount --store").ends_with("did you mean --store-dir?"));
        assert!(complaint("completions bahs").ends_with("did you mean bash?"));
        assert!(complaint("xyzzy").ends_with("see `claude-cellar help`"));
        assert!(complaint("help xyzzy").ends_with("see `claude-cellar help`"));
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        assert!(complaint("").contains("no command"));
        assert!(complaint("list").contains("DIR"));
        assert!(complaint("status now").contains("now"));
        assert!(complaint("mount --store-dir").contains("--store-dir"));
        assert!(complaint("mount --store-dir=").contains("empty path"));
        assert!(complaint("umount --lazy=yes").contains("--lazy"));
        assert!(complaint("log --tail many").contains("many"));
        assert!(complaint("status -x").contains("-x"));
        assert!(complaint("trash restore").contains("ID"));
        assert!(complaint("trash list x").contains("no ID"));
        assert!(complaint("stats --by day").contains("project, session"));
    }

    #[test]
    fn every_command_has_help_that_names_all_its_options() {
        for usage in PROGRAM.commands() {
            let Ok(Command::Help(by_option)) = parse_words(&format!("{} --help", usage.name))
            else {
                panic!("{} --help", usage.name)
            };
            let by_topic = parse_words(&format!("help {}", usage.name));
            assert_eq!(by_topic, Ok(Command::Help(by_option.clone())));
            assert!(PROGRAM.overview().contains(usage.name));
            for option in usage.options {
                assert!(by_option.contains(&option.shown()), "{}", option.name);
            }
        }
    }
}

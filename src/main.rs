//! Dispatch: one command, one call, one exit code.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use claude_cellar::cli::{self, Command};
use claude_cellar::config::{Config, Overrides};
use claude_cellar::exit::{Exit, Failure};
use claude_cellar::help::PROGRAM;
use claude_cellar::stats::Stats;
use claude_cellar::status::Status;
use claude_cellar::{
    archive, export, install, list, logfile, man, migrate_store, mount, repair, resume, signals,
    trash, umount, uninstall, unit, verify,
};

fn main() -> ExitCode {
    signals::end_on_broken_pipe();
    let exit = match cli::parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(exit) => exit,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "claude-cellar: {failure}");
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Help(text) => print(text.as_bytes()),
        Command::ManPage => print(man::page(&PROGRAM).as_bytes()),
        Command::Unit(program) => print(unit::text(&program, &[])?.as_bytes()),
        Command::Completions(shell) => print(shell.script(&PROGRAM).as_bytes()),
        Command::Version => {
            print(concat!("claude-cellar ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())
        }
        Command::Install {
            no_systemd,
            claude_bin,
            dry_run,
        } => {
            let options = install::Options {
                no_systemd,
                claude_bin,
                dry_run,
            };
            install::run(&options, &mut io::stdout())?;
            Ok(Exit::Done)
        }
        Command::Uninstall { restore } => print(uninstall::run(restore)?.as_bytes()),
        Command::MigrateStore { from, dry_run } => {
            print(migrate_store::migrate(&configured()?, from.as_deref(), dry_run)?.as_bytes())
        }
        Command::Export { dir } => export::run(&configured()?, &dir, &mut io::stdout().lock()),
        Command::Import { dir } => print(migrate_store::import(&configured()?, &dir)?.as_bytes()),
        Command::Resume {
            id,
            projects_dir,
            claude_bin,
        } => resume::run(
            &configured()?,
            &id,
            projects_dir.as_deref(),
            claude_bin.as_deref(),
            &mut io::stdout().lock(),
        ),
        Command::Trash(action) => print(trash::run(&configured()?, &action)?.as_bytes()),
        Command::Mount {
            foreground,
            adopt,
            allow_other,
            store_dir,
            mount_dir,
        } => {
            let config = Config::load(Overrides {
                mount_dir,
                store_dir,
            })?;
            let how = mount::How {
                foreground,
                adopt,
                allow_other,
            };
            mount::run(&config, how)?;
            say(format_args!("mounted {}", config.mount_dir.display()))
        }
        Command::Umount { mount_dir, lazy } => {
            let config = Config::load(Overrides {
                mount_dir,
                store_dir: None,
            })?;
            say(umount::run(&config, lazy)?)
        }
        Command::Status { json } => {
            let status = Status::read(&configured()?)?;
            print(if json { status.json() } else { status.text() }.as_bytes())?;
            Ok(status.exit())
        }
        Command::Stats { by, json } => {
            let stats = Stats::read(&configured()?, by)?;
            print(if json { stats.json() } else { stats.text() }.as_bytes())
        }
        Command::List { dir } => print(list::table(&dir)?.as_bytes()),
        Command::Compress { file, keep } => say(archive::compress(&file, keep)?),
        Command::Decompress { file, out } => {
            print(archive::decompress(&file, out.as_deref())?.as_bytes())
        }
        Command::Archive { dir, keep, dry_run } => archive::archive(
            &dir,
            keep,
            dry_run,
            &mut io::stdout().lock(),
            &mut io::stderr(),
        ),
        Command::Verify {
            paths,
            repair,
            json,
        } => {
            let run = if repair { repair::run } else { verify::run };
            run(&configured()?, &paths, json, &mut io::stdout().lock())
        }
        Command::Log { tail } => print(&logfile::tail(&configured()?.log_file, tail)?),
    }
}

fn configured() -> Result<Config, Failure> {
    Config::load(Overrides::default())
}

fn say(line: impl Display) -> Result<Exit, Failure> {
    print(format!("{line}\n").as_bytes())
}

fn print(text: &[u8]) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(format!("cannot write the output: {error}"))),
    }
}

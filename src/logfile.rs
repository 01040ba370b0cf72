//! The log: private, in UTC, and bounded.
//!
//! Two files at most, of 1 MiB each: when `cellar.log` is full it becomes `cellar.log.1`. Several
//! daemons may share it, so each line is one append, and before each the file is looked up again:
//! another daemon may have turned it over, or a user deleted it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use log::LevelFilter;
use simplelog::{CombinedLogger, ConfigBuilder, WriteLogger};

use crate::exit::Failure;
use crate::paths;

const BOUND: u64 = 1 << 20;

/// Sends the process's log to the file, and to stderr too when someone watches it. Logging works
/// even when this fails: the file is tried again at each line.
pub fn init(path: &Path, level: LevelFilter, watched: bool) -> io::Result<()> {
    let mut log = Log::new(path, BOUND, watched);
    let opened = match path.parent().map(paths::create_private) {
        Some(Err(error)) => Err(error),
        _ => log.open().map(drop),
    };
    let log = Shared(Arc::new(Mutex::new(log)));
    let format = || {
        let mut format = ConfigBuilder::new();
        format
            .set_time_format_rfc3339()
            .set_thread_level(LevelFilter::Off)
            .set_target_level(LevelFilter::Off);
        format
    };
    let ours = format().add_filter_ignore_str("fuser").build();
    let library = format().add_filter_allow_str("fuser").build();
    CombinedLogger::init(vec![
        WriteLogger::new(level, ours, log.clone()),
        WriteLogger::new(level.min(LevelFilter::Warn), library, log),
    ])
    .map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    opened
}

/// The last lines of the log, the file before included.
pub fn tail(path: &Path, lines: usize) -> Result<Vec<u8>, Failure> {
    let mut text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(
                Failure::at("cannot read the log", path, "there is none yet")
                    .advise("the daemon writes it; start it with `claude-cellar mount`"),
            );
        }
        Err(error) => return Err(Failure::at("cannot read the log", path, error)),
    };
    if let Ok(mut older) = fs::read(previous(path)) {
        older.append(&mut text);
        text = older;
    }
    let start = start_of_last(&text, lines);
    Ok(text.split_off(start))
}

fn start_of_last(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut start = text.len();
    for line in body.rsplit(|&byte| byte == b'\n').take(lines) {
        start = line.as_ptr() as usize - text.as_ptr() as usize;
    }
    start
}

fn previous(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

/// One file, appended to line by line.
struct Log {
    path: PathBuf,
    bound: u64,
    watched: bool,
    file: Option<File>,
    /// What has been written since the last end of a line.
    line: Vec<u8>,
}

impl Log {
    fn new(path: &Path, bound: u64, watched: bool) -> Log {
        Log {
            path: path.to_path_buf(),
            bound,
            watched,
            file: None,
            line: Vec::new(),
        }
    }

    fn emit(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if self.watched {
            let _ = io::stderr().write_all(&line);
        }
        self.open()?.write_all(&line)
    }

    /// The file that has the log's name now, with room for another line.
    fn open(&mut self) -> io::Result<&File> {
        let named = fs::metadata(&self.path);
        if named.as_ref().is_ok_and(|named| named.len() >= self.bound) {
            fs::rename(&self.path, previous(&self.path))?;
            self.file = None;
        }
        let current = self.file.take().filter(|file| {
            let opened = file.metadata();
            matches!((&named, &opened), (Ok(named), Ok(opened)) if named.ino() == opened.ino())
        });
        let file = match current {
            Some(file) => file,
            None => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            self.emit()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Log>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir =
                std::env::temp_dir().join(format!("cellar-log-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }

        fn log(&self) -> PathBuf {
            self.0.join("cellar.log")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_full_log_starts_anew_and_only_the_last_one_is_kept() {
        let dir = Dir::new("bound");
        let mut log = Log::new(&dir.log(), 100, false);
        for i in 0..50 {
            writeln!(log, "line {i:02} of twenty bytes").unwrap();
        }
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&dir.log()) < 130);
        assert!(size(&previous(&dir.log())) < 130);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 2);
        let last = tail(&dir.log(), 2).unwrap();
        assert_eq!(last, b"line 48 of twenty bytes\nline 49 of twenty bytes\n");
    }

    #[test]
    fn the_tail_reaches_into_the_file_before() {
        let dir = Dir::new("tail");
        fs::write(previous(&dir.log()), "1\n2\n").unwrap();
        fs::write(dir.log(), "3\n4\n").unwrap();
        let text = |lines| String::from_utf8(tail(&dir.log(), lines).unwrap()).unwrap();
        assert_eq!(text(0), "");
        assert_eq!(text(1), "4\n");
        assert_eq!(text(3), "2\n3\n4\n");
        assert_eq!(text(9), "1\n2\n3\n4\n");
    }

    #[test]
    fn a_deleted_or_renamed_log_is_not_written_on() {
        let dir = Dir::new("moved");
        let mut log = Log::new(&dir.log(), 1000, false);
        writeln!(log, "a").unwrap();
        fs::rename(dir.log(), previous(&dir.log())).unwrap();
        writeln!(log, "b").unwrap();
        fs::remove_file(dir.log()).unwrap();
        writeln!(log, "c").unwrap();
        assert_eq!(fs::read(dir.log()).unwrap(), b"c\n");
        assert_eq!(fs::read(previous(&dir.log())).unwrap(), b"a\n");
    }

    #[test]
    fn the_file_is_private() {
        let dir = Dir::new("mode");
        writeln!(Log::new(&dir.log(), 1000, false), "a").unwrap();
        assert_eq!(fs::metadata(dir.log()).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn no_log_is_said() {
        let failure = tail(Path::new("/no/such/cellar.log"), 1).unwrap_err();
        assert!(failure.message.contains("there is none yet"));
    }
}

//! The trash: sessions that were deleted through the mount, and their bundles, kept for some days.
//!
//! ```text
//! .cellar/trash/<when>/<project>/<uuid>.jsonl.zst   a session, in whatever form it had
//! .cellar/trash/<when>/<project>/<uuid>/...         files of its bundle
//! ```
//! `<when>` is the second of the deletion since 1970, with `.1`, `.2`… behind it where a name was
//! deleted more than once in that second. Everything else is the path it had, so that a file can be
//! put back by hand. Claude Code removes a bundle file by file, before or after its session, so the
//! parts of one deletion may have several seconds; [`deleted`] puts them together again.
//!
//! Keeping is one `rename` where `unlink` would have been, so a kill leaves the file in one place or
//! the other, and descriptors that are open go on. As with an `unlink`, nothing is synced: after a
//! power cut a file may be back. Only what is a session or in a directory named by a UUID is kept; a
//! file with another name loses this one and nothing else.
//!
//! A deletion that cannot be kept because the disk is full is a deletion nevertheless: deleting is how
//! users make room, and an error would leave them no way out. The log says so. Any other error is
//! returned, and nothing is deleted.

mod command;
mod deleted;
mod restore;

pub use command::{read, run};
pub use deleted::{Deleted, deleted};

use crate::cache::lock;
use crate::names::{OWN, Place, is_session};
use crate::store::Store;
use crate::sys::{self, Stat, errno, is};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What has been kept for too long is looked for this often.
const DAY: Duration = Duration::from_secs(86_400);

/// When something was deleted: a directory in the trash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct When {
    pub seconds: u64,
    /// Tells deletions of one second apart that cannot share a directory.
    number: u32,
}

impl When {
    fn now() -> When {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        When {
            seconds: now.unwrap_or_default().as_secs(),
            number: 0,
        }
    }

    /// `None` for what a user has put into the trash himself.
    fn parse(name: &OsStr) -> Option<When> {
        let name = name.to_str()?;
        let (seconds, number) = name.split_once('.').unwrap_or((name, "0"));
        let when = When {
            seconds: seconds.parse().ok()?,
            number: number.parse().ok()?,
        };
        (when.name() == name).then_some(when)
    }

    fn name(self) -> String {
        match self.number {
            0 => self.seconds.to_string(),
            number => format!("{}.{number}", self.seconds),
        }
    }

    /// Its directory beneath the store.
    fn dir(self) -> PathBuf {
        trash_dir().join(self.name())
    }
}

fn trash_dir() -> PathBuf {
    Path::new(OWN).join("trash")
}

/// The trash of a mount that has one.
pub struct Trash {
    days: u32,
    /// Where the last deletion went.
    last: Mutex<When>,
    pruned: Mutex<Option<Instant>>,
}

impl Trash {
    /// None for 0 days: deleted means deleted.
    pub fn for_days(days: u32) -> Option<Trash> {
        let (last, pruned) = (Mutex::default(), Mutex::default());
        (days > 0).then_some(Trash { days, last, pruned })
    }

    /// Moves a store file that is to be unlinked into the trash. False if it is not to be kept, and
    /// is to be unlinked after all.
    pub fn keep(
        &self,
        store: &Store,
        place: &Place,
        dir: BorrowedFd,
        stored: &OsStr,
        stat: &Stat,
    ) -> io::Result<bool> {
        if !is_kept(place, stat) {
            return Ok(false);
        }
        let path = place.path();
        match self.take(store, place, dir, stored) {
            Err(e) if is(&e, libc::ENOSPC) || is(&e, libc::EDQUOT) => {
                log::warn!("{}: deleted, not kept in the trash: {e}", path.display());
                Ok(false)
            }
            Err(e) if is(&e, libc::ENOENT) => Err(e),
            Err(e) => {
                log::error!("{}: not deleted, the trash: {e}", path.display());
                Err(e)
            }
            Ok(()) => Ok(true),
        }
    }

    fn take(
        &self,
        store: &Store,
        place: &Place,
        dir: BorrowedFd,
        stored: &OsStr,
    ) -> io::Result<()> {
        let mut when = self.now();
        loop {
            match move_into(store, &when.dir(), place, dir, stored) {
                Err(e) if is(&e, libc::EEXIST) => when = self.after(when),
                Err(e) if is(&e, libc::ENOENT) => {
                    // If it is not the file itself that is gone, it is the directory for it.
                    sys::stat_at(dir, stored)?;
                    make(store, Path::new(OWN), "trash")?;
                    make(store, &trash_dir(), when.name())?;
                    mirror(store, Path::new(""), &when.dir(), &place.dir)?;
                }
                done => return done,
            }
        }
    }

    fn now(&self) -> When {
        let (now, mut last) = (When::now(), lock(&self.last));
        if last.seconds != now.seconds {
            *last = now;
        }
        *last
    }

    /// The next of the same second, because in `when` the name is taken.
    fn after(&self, when: When) -> When {
        let mut last = lock(&self.last);
        if *last == when {
            last.number += 1;
        }
        match last.seconds == when.seconds {
            true => *last,
            false => When {
                number: when.number + 1,
                ..when
            },
        }
    }

    /// How long until it is to be pruned again.
    pub fn due_in(&self) -> Duration {
        lock(&self.pruned).map_or(Duration::ZERO, |at| DAY.saturating_sub(at.elapsed()))
    }

    /// Removes what has been kept long enough, once a day.
    pub fn prune_if_due(&self, store: &Store) {
        if self.due_in() > Duration::ZERO {
            return;
        }
        *lock(&self.pruned) = Some(Instant::now());
        match prune(store, self.days) {
            Ok(0) => {}
            Ok(count) => log::info!("removed {count} files from the trash"),
            Err(e) => log::warn!("removing old files from the trash: {e}"),
        }
    }
}

/// A session, or a file of a session's bundle, that has no other name.
fn is_kept(place: &Place, stat: &Stat) -> bool {
    let mut dirs = place.dir.components().skip(1);
    let session = is_session(&place.name) && stat.is(libc::S_IFREG);
    let in_bundle = stat.is(libc::S_IFREG) || stat.is(libc::S_IFLNK);
    stat.nlink == 1
        && match (place.dir.as_os_str().is_empty(), dirs.next()) {
            (true, _) => false,
            (false, None) => session,
            (false, Some(dir)) => in_bundle && is_uuid(dir.as_os_str()),
        }
}

fn is_uuid(name: &OsStr) -> bool {
    let groups = name.as_bytes().split(|&b| b == b'-');
    let hex = |group: &[u8]| group.iter().all(u8::is_ascii_hexdigit);
    groups.clone().map(<[u8]>::len).eq([8, 4, 4, 4, 12]) && groups.clone().all(hex)
}

/// Moves a store file to the directory of its project or bundle beneath `base`. EEXIST if there is one
/// of that name in either form, ENOENT if there is no such directory.
fn move_into(
    store: &Store,
    base: &Path,
    place: &Place,
    dir: BorrowedFd,
    stored: &OsStr,
) -> io::Result<()> {
    let into = store.dir(&base.join(&place.dir))?;
    match store.find(into.as_fd(), &place.name) {
        Ok(_) => return Err(errno(libc::EEXIST)),
        Err(e) if !is(&e, libc::ENOENT) => return Err(e),
        Err(_) => {}
    }
    sys::rename_at(dir, stored, into.as_fd(), stored, libc::RENAME_NOREPLACE)
}

/// Makes a private directory, if it is not there. Returns whether it was made.
fn make(store: &Store, parent: &Path, name: impl AsRef<OsStr>) -> io::Result<bool> {
    match sys::mkdir_at(store.dir(parent)?.as_fd(), name.as_ref(), 0o700) {
        Err(e) if is(&e, libc::EEXIST) => Ok(false),
        made => made.map(|()| true),
    }
}

/// Makes `path` beneath `to`, with all directories above it, each with the owner and mode it has
/// beneath `from`.
fn mirror(store: &Store, from: &Path, to: &Path, path: &Path) -> io::Result<()> {
    let mut done = PathBuf::new();
    for name in path {
        let parent = to.join(&done);
        done.push(name);
        if !make(store, &parent, name)? {
            continue;
        }
        let model = sys::fstat(store.dir(&from.join(&done))?)?;
        let made = store.dir(&to.join(&done))?;
        // Only root may give directories away; an ordinary user's store holds no others'.
        match sys::chown(&made, Some(model.uid), Some(model.gid)) {
            Err(e) if !is(&e, libc::EPERM) => return Err(e),
            _ => {}
        }
        sys::chmod(made.as_fd(), model.mode & 0o7777 | 0o700)?;
    }
    Ok(())
}

/// Removes what was deleted more than `days` ago. Returns how many files that were.
pub fn prune(store: &Store, days: u32) -> io::Result<u64> {
    let kept_since = When::now()
        .seconds
        .saturating_sub(u64::from(days) * DAY.as_secs());
    let trash = match store.dir(&trash_dir()) {
        Err(e) if is(&e, libc::ENOENT) => return Ok(0),
        trash => trash?,
    };
    let (mut count, mut failed) = (0, None);
    for entry in sys::read_dir(trash.as_fd())? {
        let when = When::parse(&entry.name);
        if let Some(when) = when.filter(|when| when.seconds < kept_since)
            && let Err(e) = remove(store, when.dir(), &mut count)
        {
            failed = Some(e);
        }
    }
    failed.map_or(Ok(count), Err)
}

/// Removes a directory of the trash with all that is in it. Another host may be doing the same.
fn remove(store: &Store, top: PathBuf, count: &mut u64) -> io::Result<()> {
    let gone = |e: &io::Error| is(e, libc::ENOENT);
    let mut dirs = vec![top];
    let mut at = 0;
    while let Some(path) = dirs.get(at).cloned() {
        at += 1;
        let dir = match store.dir(&path) {
            Err(e) if gone(&e) => continue,
            dir => dir?,
        };
        for entry in sys::read_dir(dir.as_fd())? {
            match sys::unlink_at(dir.as_fd(), &entry.name) {
                Ok(()) => *count += 1,
                Err(e) if gone(&e) => {}
                Err(_) if entry.kind == libc::DT_DIR => dirs.push(path.join(&entry.name)),
                Err(e) if is(&e, libc::EISDIR) => dirs.push(path.join(&entry.name)),
                Err(e) => return Err(e),
            }
        }
    }
    for path in dirs.iter().rev() {
        remove_empty(store, path)?;
    }
    Ok(())
}

/// Removes a directory of the trash, unless something is in it.
fn remove_empty(store: &Store, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let removed = store
        .dir(parent)
        .and_then(|parent| sys::rmdir_at(parent.as_fd(), name));
    match removed {
        Err(e)
            if [libc::ENOENT, libc::ENOTEMPTY, libc::EEXIST].map(|c| is(&e, c)) != [false; 3] =>
        {
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_by_their_second_and_number() {
        let when = |seconds, number| When { seconds, number };
        for (name, meant) in [
            ("1790000000", Some(when(1_790_000_000, 0))),
            ("1790000000.12", Some(when(1_790_000_000, 12))),
            ("1790000000.0", None),
            ("01", None),
            ("+1", None),
            ("1.", None),
            ("note", None),
            ("", None),
        ] {
            assert_eq!(When::parse(OsStr::new(name)), meant, "{name}");
        }
        assert!(when(9, 10) > when(9, 9) && when(10, 0) > when(9, 10));
    }

    #[test]
    fn sessions_and_what_is_in_their_bundles_are_kept() {
        let stat = |kind: u32, nlink: u64| Stat {
            mode: kind,
            nlink,
            ..sys::fstat(std::fs::File::open("/").unwrap()).unwrap()
        };
        let kept = |path: &str, stat: Stat| {
            let path = Path::new(path);
            let place = Place {
                dir: path.parent().unwrap().to_owned(),
                name: path.file_name().unwrap().to_owned(),
            };
            is_kept(&place, &stat)
        };
        const BUNDLE: &str = "-p/7a1e0000-0000-4000-8000-00000000000F";
        for (path, wanted) in [
            (format!("{BUNDLE}.jsonl"), true),
            ("-p/agent-1.jsonl".to_owned(), true),
            (format!("{BUNDLE}/a.txt"), true),
            (format!("{BUNDLE}/subagents/deeper/a.jsonl"), true),
            ("-p/x.txt".to_owned(), false),
            ("-p/memory/x.jsonl".to_owned(), false),
            ("-p/7a1e0000/x.jsonl".to_owned(), false),
            (format!("{BUNDLE}0/x.jsonl"), false),
            ("x.jsonl".to_owned(), false),
        ] {
            assert_eq!(kept(&path, stat(libc::S_IFREG, 1)), wanted, "{path}");
            assert!(!kept(&path, stat(libc::S_IFREG, 2)), "{path} has another");
            assert!(!kept(&path, stat(libc::S_IFIFO, 1)), "{path} is a pipe");
        }
    }

    #[test]
    fn a_day_passes_between_two_prunings() {
        assert!(Trash::for_days(0).is_none());
        let trash = Trash::for_days(1).unwrap();
        assert_eq!(trash.due_in(), Duration::ZERO);
        *lock(&trash.pruned) = Some(Instant::now());
        let left = trash.due_in();
        assert!(left > DAY - Duration::from_secs(60) && left <= DAY);
    }

    #[test]
    fn a_taken_name_goes_to_the_next_directory_of_its_second() {
        let trash = Trash::for_days(1).unwrap();
        let first = trash.now();
        let second = trash.after(first);
        assert_eq!((second.seconds, second.number), (first.seconds, 1));
        // Another deletion has found out already.
        assert_eq!(trash.after(first), second);
        assert_eq!(trash.after(second).number, 2);
        let earlier = When {
            seconds: first.seconds - 5,
            number: 3,
        };
        assert_eq!(trash.after(earlier).number, 4);
    }
}

//! A session that is on both sides becomes one.
//!
//! The client opens with `O_APPEND|O_CREAT`, so what it writes while nothing is mounted starts a new
//! file beneath the mountpoint: a *fragment* of a session that goes on in the store. One rule covers
//! it and every other case: what both begin with alike, in whole lines, is there once, and the rest
//! of the fragment comes after what the session has. So of two equal ones, one stays; of one that
//! begins the other, the longer; and what has nothing in common is appended. Where the two differ,
//! the whole fragment is kept in `.cellar/recovered` besides.
//!
//! A kill must neither lose the fragment nor append it twice, and the client may be writing to it at
//! this moment. So it is first moved aside, where nobody opens it any more, and the last writer is
//! waited for; a program that keeps it open gets it back, for another time. Then the plan (which bytes
//! come after which size of the session) is written down, synced, and carried out; whoever finds a
//! plan looks how much of it has been done and does the rest.

use super::{ASIDE, How, Migration, is_full, sorted};
use crate::frames::{self, Index};
use crate::names::{Form, Place, is_session, visible_name};
use crate::rewrite::{Content, Reader, compare};
use crate::session::Session;
use crate::store::{Found, sync_dir};
use crate::sys::{self, SetTime, Stat, Time, errno, is};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// In the source's top directory, beside [`ASIDE`]: what is being done.
const PLAN: &str = ".cellar-adopting.plan";
/// A plan that is being written.
const DRAFT: &str = ".cellar-adopting.draft";

const CHUNK: usize = 1 << 20;
/// A client has its file open for the time of one write.
const WRITERS: Duration = Duration::from_secs(2);
/// The longest fragment that an import looks for in a session that goes on differently.
const SEARCHED: u64 = 256 << 20;

/// What comes after which size of a session.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Plan {
    /// The fragment, beneath the source's [`ASIDE`].
    path: PathBuf,
    /// The session's size when the plan was made.
    size: u64,
    /// The part of the fragment to append.
    from: u64,
    to: u64,
    /// The session ends within a line, which is ended first.
    newline: bool,
    /// The fragment is kept.
    keep: bool,
    /// The session's modification time in the end.
    mtime: Time,
}

impl Plan {
    fn encode(&self) -> Vec<u8> {
        let numbers = format!(
            "{} {} {} {} {} {} {}\n",
            self.size,
            self.from,
            self.to,
            u8::from(self.newline),
            u8::from(self.keep),
            self.mtime.0,
            self.mtime.1
        );
        [numbers.as_bytes(), self.path.as_os_str().as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Plan> {
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let numbers = std::str::from_utf8(&bytes[..end]).ok()?.split(' ');
        let numbers: Vec<i64> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
        let [size, from, to, newline, keep, seconds, nanoseconds] = numbers[..] else {
            return None;
        };
        Some(Plan {
            path: OsString::from_vec(bytes[end + 1..].to_vec()).into(),
            size: u64::try_from(size).ok()?,
            from: u64::try_from(from).ok()?,
            to: u64::try_from(to).ok()?,
            newline: newline != 0,
            keep: keep != 0,
            mtime: (seconds, nanoseconds),
        })
    }
}

/// A session's bytes outside the store, in either form.
struct Fragment {
    file: File,
    form: Form,
    index: Index,
}

impl Fragment {
    fn open(file: File, form: Form) -> io::Result<Fragment> {
        let index = match form {
            Form::Raw => Index::default(),
            Form::Packed => frames::index(&file, sys::fstat(&file)?.size)?,
        };
        if index.torn > 0 || index.lost_at.is_some() {
            return Err(frames::damaged(
                index.ends.stored,
                "it does not decode to its end",
            ));
        }
        Ok(Fragment { file, form, index })
    }

    fn content(&self) -> io::Result<Content<'_>> {
        Ok(match self.form {
            Form::Raw => Content::Raw {
                file: &self.file,
                size: sys::fstat(&self.file)?.size,
            },
            Form::Packed => Content::Packed {
                file: &self.file,
                index: &self.index,
            },
        })
    }

    /// A reader that stands at `from`.
    fn reader_at(&self, from: u64) -> io::Result<Reader<'_>> {
        let content = self.content()?;
        if self.form == Form::Raw {
            return Ok(content.reader(from));
        }
        let (mut reader, mut skipped, mut at) = (content.reader(0), Vec::new(), 0);
        while at < from {
            skipped.clear();
            let n = reader.read(&mut skipped, CHUNK.min((from - at) as usize))?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += n as u64;
        }
        Ok(reader)
    }
}

/// The session in the store, open.
struct Target<'a> {
    session: Session,
    place: &'a Place,
}

impl<'a> Target<'a> {
    fn open(session: Session, place: &'a Place) -> io::Result<Target<'a>> {
        session.open(&|| Some(place.clone()), true, false)?;
        Ok(Target { session, place })
    }

    fn stat(&self) -> io::Result<Stat> {
        let stat = self.session.open_attributes(&|| Some(self.place.clone()))?;
        stat.ok_or_else(|| errno(libc::ESTALE))
    }

    fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.session.read(&|| Some(self.place.clone()), at, len)
    }

    fn append(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let place = || Some(self.place.clone());
            let n = self.session.write(&place, 0, data, true, false)?;
            data = &data[n as usize..];
        }
        Ok(())
    }

    /// Makes what was appended durable, with this modification time.
    fn finish(&self, mtime: Time) -> io::Result<()> {
        let place = || Some(self.place.clone());
        self.session.with_store_file(&place, |fd| {
            sys::utimens(fd, SetTime::Omit, SetTime::At(mtime))
        })?;
        self.session.sync(&place, false)
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        let _ = self.session.close();
    }
}

impl Migration {
    /// Makes one session of a source file and the session that has its place.
    pub(super) fn merge(
        &mut self,
        source: BorrowedFd,
        dir: &Path,
        name: &OsStr,
        stat: &Stat,
        place: &Place,
        found: &Found,
    ) -> io::Result<()> {
        if !found.stat.is(libc::S_IFREG) {
            return self.recover(source, name, stat, place);
        }
        if self.how == How::Import {
            return self.import(source, name, place);
        }
        if name != place.name {
            // Its time is the fragment's own by now, and must not become the session's.
            self.shared.store.drop_sidecar(source, &place.name);
        }
        self.put_aside(dir, name)?;
        self.merge_aside(&dir.join(name))
    }

    /// Clears the packed form away that a killed change of form left beside a session.
    pub(super) fn settle(
        &mut self,
        source: BorrowedFd,
        name: &OsStr,
        stat: &Stat,
        place: &Place,
    ) -> io::Result<()> {
        let equal = self.fragment(source, name, place).and_then(|packed| {
            let raw = self.fragment(source, &place.name, place)?;
            compare(packed.content()?, raw.content()?)
        });
        match equal {
            Ok(true) if self.how != How::Import => sys::unlink_at(source, name),
            _ => self.recover(source, name, stat, place),
        }
    }

    /// Ends what an earlier run was killed in.
    pub(super) fn finish_merges(&mut self) -> io::Result<()> {
        if self.how == How::Import {
            return Ok(());
        }
        match sys::open_at(self.top.as_fd(), OsStr::new(PLAN), libc::O_RDONLY, 0) {
            Err(e) if is(&e, libc::ENOENT) => {}
            opened => {
                let mut bytes = Vec::new();
                File::from(opened?).read_to_end(&mut bytes)?;
                // One that was cut short was never begun.
                if let Some(plan) = Plan::decode(&bytes) {
                    self.carry_out(plan)?;
                }
            }
        }
        for name in [PLAN, DRAFT] {
            self.forget(name)?;
        }
        self.finish_aside(Path::new(""))
    }

    fn finish_aside(&mut self, dir: &Path) -> io::Result<()> {
        let aside = match self.source(&Path::new(ASIDE).join(dir)) {
            Err(e) if is(&e, libc::ENOENT) => return Ok(()),
            aside => aside?,
        };
        for name in sorted(aside.as_fd())? {
            let path = dir.join(&name);
            if sys::stat_at(aside.as_fd(), &name)?.is(libc::S_IFDIR) {
                self.finish_aside(&path)?;
            } else {
                self.finish_aside_entry(&path)?;
            }
        }
        self.drop_aside(dir);
        Ok(())
    }

    /// Goes on with what lies aside: a session is merged, anything else is taken once more.
    pub(super) fn finish_aside_entry(&mut self, path: &Path) -> io::Result<()> {
        let (aside, name, _) = self.aside(path)?;
        let session = visible_name(&name).is_some_and(is_session);
        if session && sys::stat_at(aside.as_fd(), &name)?.is(libc::S_IFREG) {
            return self.merge_aside(path);
        }
        self.changed = true;
        self.give_back(path)
    }

    /// Moves a source entry to where nobody opens it any more; returns that directory.
    pub(super) fn put_aside(&self, dir: &Path, name: &OsStr) -> io::Result<OwnedFd> {
        let aside = Path::new(ASIDE).join(dir);
        self.make_source(&aside)?;
        let (source, to) = (self.source(dir)?, self.source(&aside)?);
        let flags = libc::RENAME_NOREPLACE;
        sys::rename_at(source.as_fd(), name, to.as_fd(), name, flags)?;
        Ok(to)
    }

    /// Moves what lies aside back to where it was.
    fn give_back(&mut self, path: &Path) -> io::Result<()> {
        let (aside, name, _) = self.aside(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        self.make_source(dir)?;
        let (to, flags) = (self.source(dir)?, libc::RENAME_NOREPLACE);
        match sys::rename_at(aside.as_fd(), &name, to.as_fd(), &name, flags) {
            Err(e) if is(&e, libc::EEXIST) => self.keep(path),
            moved => moved,
        }
    }

    /// Makes a directory of the source, and those above it.
    fn make_source(&self, dir: &Path) -> io::Result<()> {
        let mut made = PathBuf::new();
        for name in dir {
            match sys::mkdir_at(self.source(&made)?.as_fd(), name, 0o700) {
                Err(e) if !is(&e, libc::EEXIST) => return Err(e),
                _ => made.push(name),
            }
        }
        Ok(())
    }

    /// Removes a directory of what was moved aside, and those above it, if they are empty.
    pub(super) fn drop_aside(&self, dir: &Path) {
        let path = Path::new(ASIDE).join(dir);
        for dir in path.ancestors() {
            let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
                return;
            };
            let removed = self
                .source(parent)
                .and_then(|parent| sys::rmdir_at(parent.as_fd(), name));
            if removed.is_err() {
                return;
            }
        }
    }

    /// Merges a fragment that lies aside; one that cannot be read is kept as it is.
    fn merge_aside(&mut self, path: &Path) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new(""));
        match self.plan(path).and_then(|plan| match plan {
            Some(plan) => self.carry_out(plan),
            None => Ok(()),
        }) {
            Err(e) if is_full(&e) => return Err(e),
            Err(e) if is(&e, libc::EBUSY) => {
                // What it will write must not end where nobody looks.
                self.give_back(path)?;
                let reason = io::Error::other("a program has it open for writing");
                self.taken.failures.push((path.to_owned(), reason));
            }
            Err(e) => {
                log::error!("{}: not merged: {e}", path.display());
                self.keep(path)?;
            }
            Ok(()) => {}
        }
        self.drop_aside(dir);
        Ok(())
    }

    /// The fragment's parts of a path: where it lies, its name, its place in the store.
    fn aside(&self, path: &Path) -> io::Result<(OwnedFd, OsString, Place)> {
        let dir = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or_else(|| errno(libc::EINVAL))?;
        let visible = visible_name(name).filter(|name| is_session(name));
        let place = self.place(dir, visible.unwrap_or(name));
        let aside = self.source(&Path::new(ASIDE).join(dir))?;
        Ok((aside, name.to_owned(), place))
    }

    fn fragment(&self, aside: BorrowedFd, name: &OsStr, place: &Place) -> io::Result<Fragment> {
        let form = if place.name == name {
            Form::Raw
        } else {
            Form::Packed
        };
        let file = self.shared.store.open_file(aside, name, libc::O_RDONLY)?;
        Fragment::open(file, form)
    }

    /// What is to be done with a fragment; `None` if it becomes the session itself.
    fn plan(&mut self, path: &Path) -> io::Result<Option<Plan>> {
        let (aside, name, place) = self.aside(path)?;
        let parent = self.shared.store.dir(&place.dir)?;
        if let Err(e) = self.shared.store.find(parent.as_fd(), &place.name) {
            if !is(&e, libc::ENOENT) {
                return Err(e);
            }
            // The session has been deleted meanwhile.
            if !self.move_entry(aside.as_fd(), &name, parent.as_fd(), &place)? {
                self.changed = true;
                self.give_back(path)?;
            }
            return Ok(None);
        }
        let fragment = self.fragment(aside.as_fd(), &name, &place)?;
        if !wait_for_writers(&fragment.file) {
            return Err(errno(libc::EBUSY));
        }
        let target = self.target(&place)?;
        let stat = target.stat()?;
        let to = fragment.content()?.size();
        let common = common(&target, stat.size, &fragment)?;
        let (ends_within, continues) = (common.bytes == to, common.bytes == stat.size);
        let whole_lines = !ends_within && !continues;
        Ok(Some(Plan {
            path: path.to_owned(),
            size: stat.size,
            from: if whole_lines {
                common.lines
            } else {
                common.bytes
            },
            to,
            newline: whole_lines && !ends_line(&target, stat.size)?,
            keep: whole_lines,
            mtime: stat.mtime.max(sys::fstat(&fragment.file)?.mtime),
        }))
    }

    fn target<'a>(&self, place: &'a Place) -> io::Result<Target<'a>> {
        Target::open(Session::new(self.shared.clone()), place)
    }

    /// Does what a plan says, as far as it has not been done, and ends it.
    fn carry_out(&mut self, mut plan: Plan) -> io::Result<()> {
        let (aside, name, place) = match self.aside(&plan.path) {
            Err(e) if is(&e, libc::ENOENT) => return Ok(()),
            aside => aside?,
        };
        let fragment = match self.fragment(aside.as_fd(), &name, &place) {
            // Everything was done but forgetting the plan.
            Err(e) if is(&e, libc::ENOENT) => return Ok(()),
            fragment => fragment?,
        };
        let target = self.target(&place)?;
        loop {
            if plan.from < plan.to {
                self.write_plan(&plan)?;
                append_rest(&target, &fragment, &plan)?;
                target.finish(plan.mtime)?;
                self.taken.merged += 1;
            }
            // Somebody may have been about to open it.
            let now = fragment.content()?.size();
            if now <= plan.to {
                break;
            }
            let size = target.stat()?.size;
            plan = Plan {
                size,
                from: plan.to,
                to: now,
                newline: false,
                ..plan
            };
        }
        if plan.keep {
            self.keep(&plan.path)?;
        } else {
            sys::unlink_at(aside.as_fd(), &name)?;
        }
        self.forget(PLAN)
    }

    /// Removes a file of the cellar's from the source's top directory, if it is there.
    fn forget(&self, name: &str) -> io::Result<()> {
        match sys::unlink_at(self.top.as_fd(), OsStr::new(name)) {
            Err(e) if !is(&e, libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    /// Puts what lies aside into `.cellar/recovered`.
    fn keep(&mut self, path: &Path) -> io::Result<()> {
        let (aside, name, place) = self.aside(path)?;
        let store = &self.shared.store;
        match store.recover_file(&place, aside.as_fd(), &name) {
            Err(e) if is(&e, libc::EXDEV) => {
                let mut file = store.open_file(aside.as_fd(), &name, libc::O_RDONLY)?;
                store.recover_bytes(&place, &mut file)?;
                sys::unlink_at(aside.as_fd(), &name)?;
            }
            done => drop(done?),
        }
        self.taken.recovered += 1;
        Ok(())
    }

    fn write_plan(&self, plan: &Plan) -> io::Result<()> {
        let draft = OsStr::new(DRAFT);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        let mut file: File = sys::open_at(self.top.as_fd(), draft, flags, 0o600)?.into();
        file.write_all(&plan.encode())?;
        file.sync_all()?;
        let top = self.top.as_fd();
        sys::rename_at(top, draft, top, OsStr::new(PLAN), 0)?;
        sync_dir(top)
    }

    /// Adds to a session what a file outside has more, which stays where it is.
    fn import(&mut self, source: BorrowedFd, name: &OsStr, place: &Place) -> io::Result<()> {
        let fragment = self.fragment(source, name, place)?;
        let target = self.target(place)?;
        let stat = target.stat()?;
        let to = fragment.content()?.size();
        let common = common(&target, stat.size, &fragment)?;
        let mut plan = Plan {
            path: place.path(),
            size: stat.size,
            from: common.bytes,
            to,
            newline: false,
            keep: true,
            mtime: stat.mtime.max(sys::fstat(&fragment.file)?.mtime),
        };
        if common.bytes != to && common.bytes != stat.size {
            plan.from = common.lines;
            if holds(&target, &stat, &fragment, &plan)? {
                return Ok(());
            }
            plan.newline = !ends_line(&target, stat.size)?;
        }
        if plan.from < plan.to {
            append_rest(&target, &fragment, &plan)?;
            target.finish(plan.mtime)?;
            self.taken.merged += 1;
        }
        Ok(())
    }
}

/// Gives a client that has the file open the time to end its write; whether it has.
pub fn wait_for_writers(file: &File) -> bool {
    let deadline = Instant::now() + WRITERS;
    while sys::has_writers(file) {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// How much two begin with alike: in bytes, and in whole lines.
struct Common {
    bytes: u64,
    lines: u64,
}

fn common(target: &Target, size: u64, fragment: &Fragment) -> io::Result<Common> {
    let mut reader = fragment.reader_at(0)?;
    let (mut theirs, mut common) = (Vec::with_capacity(CHUNK), Common { bytes: 0, lines: 0 });
    loop {
        theirs.clear();
        let n = reader.read(&mut theirs, CHUNK)?;
        let ours = target.read(common.bytes, n.min((size - common.bytes) as usize))?;
        let alike = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        if let Some(at) = ours[..alike].iter().rposition(|b| *b == b'\n') {
            common.lines = common.bytes + at as u64 + 1;
        }
        common.bytes += alike as u64;
        if alike < n || n == 0 {
            return Ok(common);
        }
    }
}

fn ends_line(target: &Target, size: u64) -> io::Result<bool> {
    Ok(size == 0 || target.read(size - 1, 1)? == b"\n")
}

/// Appends what a plan wants appended and is not there yet.
fn append_rest(target: &Target, fragment: &Fragment, plan: &Plan) -> io::Result<()> {
    let mut rest = Rest::new(fragment, plan)?;
    let end = target.stat()?.size;
    let mut at = plan.size;
    // What stands after the planned size is ours, as far as it is what was planned.
    while at < end {
        let there = target.read(at, CHUNK.min((end - at) as usize))?;
        let planned = rest.peek(there.len())?;
        if planned.is_empty() || there.is_empty() {
            break;
        }
        let alike = there
            .iter()
            .zip(planned)
            .take_while(|(a, b)| a == b)
            .count();
        let (whole, ours) = (alike == planned.len(), alike == there.len());
        if !whole && !ours {
            // Another host has written there: nothing of the plan was done, or all of it later.
            if follows(target, plan, fragment, end)? {
                return Ok(());
            }
            rest = Rest::new(fragment, plan)?;
            break;
        }
        rest.advance(alike);
        at += alike as u64;
    }
    loop {
        let n = {
            let data = rest.peek(CHUNK)?;
            // Whole lines, because another host may append in between.
            let lines = data.iter().rposition(|b| *b == b'\n').map(|at| at + 1);
            let end = lines.filter(|_| data.len() == CHUNK);
            let data = &data[..end.unwrap_or(data.len())];
            target.append(data)?;
            data.len()
        };
        if n == 0 {
            return Ok(());
        }
        rest.advance(n);
    }
}

/// Whether all that a plan wants appended stands somewhere after the planned size.
fn follows(target: &Target, plan: &Plan, fragment: &Fragment, end: u64) -> io::Result<bool> {
    if plan.to - plan.from > SEARCHED || end - plan.size > SEARCHED {
        return Ok(false);
    }
    let wanted = Rest::new(fragment, plan)?.all()?;
    let there = read_range(target, plan.size, end)?;
    Ok(found_in(&there, &wanted))
}

/// Whether a session has the rest of a fragment already, at the start of a line.
fn holds(target: &Target, stat: &Stat, fragment: &Fragment, plan: &Plan) -> io::Result<bool> {
    if plan.to - plan.from > SEARCHED || stat.size > SEARCHED {
        return Err(io::Error::other(
            "it differs from the session of this name and is too large to merge",
        ));
    }
    let wanted = Rest::new(fragment, plan)?.all()?;
    Ok(found_in(&read_range(target, 0, stat.size)?, &wanted))
}

fn read_range(target: &Target, mut at: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity((end - at) as usize);
    while at < end {
        let chunk = target.read(at, CHUNK.min((end - at) as usize))?;
        if chunk.is_empty() {
            break;
        }
        at += chunk.len() as u64;
        bytes.extend(chunk);
    }
    Ok(bytes)
}

/// Whether lines stand among others.
fn found_in(lines: &[u8], wanted: &[u8]) -> bool {
    let starts = lines.iter().enumerate().filter(|(_, b)| **b == b'\n');
    let starts = [0].into_iter().chain(starts.map(|(at, _)| at + 1));
    wanted.is_empty() || starts.into_iter().any(|at| lines[at..].starts_with(wanted))
}

/// The bytes that a plan wants appended.
struct Rest<'a> {
    reader: Reader<'a>,
    left: u64,
    ahead: Vec<u8>,
}

impl<'a> Rest<'a> {
    fn new(fragment: &'a Fragment, plan: &Plan) -> io::Result<Rest<'a>> {
        Ok(Rest {
            reader: fragment.reader_at(plan.from)?,
            left: plan.to - plan.from,
            ahead: if plan.newline {
                vec![b'\n']
            } else {
                Vec::new()
            },
        })
    }

    /// The next bytes, as many as are left but at most `most`.
    fn peek(&mut self, most: usize) -> io::Result<&[u8]> {
        while self.ahead.len() < most && self.left > 0 {
            let room = (most - self.ahead.len()).min(usize::try_from(self.left).unwrap_or(CHUNK));
            let n = self.reader.read(&mut self.ahead, room)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.left -= n as u64;
        }
        Ok(&self.ahead[..self.ahead.len().min(most)])
    }

    fn advance(&mut self, n: usize) {
        self.ahead.drain(..n);
    }

    fn all(mut self) -> io::Result<Vec<u8>> {
        let most = self.ahead.len() + self.left as usize;
        self.peek(most).map(<[u8]>::to_vec)
    }
}

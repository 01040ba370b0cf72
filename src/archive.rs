//! Sessions in directories that are not mounted: compress, decompress, archive.
//!
//! Nothing is ever overwritten: a result is written to a hidden file beside its place, synced, and
//! linked into the place, which fails if the name is taken. An original goes last: after its
//! compressed form has been decoded, compared with it byte for byte, and made durable under its
//! name, and only if the original has not changed since it was opened.
//!
//! Inside a mount there is nothing to compress, and names ending `.jsonl.zst` cannot exist there.

use crate::exit::{Exit, Failure};
use crate::frames::{self, Encoder, FRAME_MAX, Index, LEVEL_SEAL};
use crate::mounts;
use crate::names::{is_session, packed_name, visible_name};
use crate::progress::Progress;
use crate::rewrite::{Builder, Content};
use crate::session::finish;
use crate::size;
use crate::store::{carry_attributes, carry_times, sync_dir};
use crate::survey::{self, Surveyed};
use crate::sys::{self, Stat, errno, is};
use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes decoded at a time.
const CHUNK: usize = 1 << 20;

// ---- compress ---------------------------------------------------------------------------------

/// Puts a session's compressed form beside it and removes the original unless it is to be kept.
pub fn compress(path: &Path, keep: bool) -> Result<Compressed, Failure> {
    let cannot = |reason: &dyn fmt::Display| Failure::at("cannot compress", path, reason);
    let (dir, name) = split(path).map_err(|e| cannot(&e))?;
    if visible_name(&name).is_some_and(|v| v != name) {
        return Err(cannot(&"it is compressed already"));
    }
    if !is_session(&name) {
        return Err(cannot(&"not a session: its name does not end in .jsonl"));
    }
    let target = packed_name(&name).ok_or_else(|| cannot(&"its name is too long to add .zst"))?;
    let dir = Directory::open(&dir).map_err(|e| cannot(&e))?;
    if dir.mounted {
        return Err(cannot(&"already in the cellar, which compresses by itself"));
    }
    let source = dir.source(&name).map_err(|e| cannot(&e))?;
    if source.stat.nlink > 1 && !keep {
        return Err(
            cannot(&"it has several hard links, so deleting it would save nothing")
                .advise("use `compress --keep` to compress it anyway"),
        );
    }
    dir.expect_free(&target).map_err(|e| cannot(&e))?;
    let stored = source
        .compress_into(&dir, &target)
        .map_err(|e| cannot(&e))?;
    if !keep {
        match sys::stat_at(dir.fd.as_fd(), &name) {
            Ok(now) if same(&now, &source.stat) => {}
            Ok(_) => {
                // The copy is a moment old and no longer what the original says.
                sys::unlink_at(dir.fd.as_fd(), &target).map_err(|e| cannot(&e))?;
                return Err(cannot(&CHANGED));
            }
            Err(e) => {
                return Err(cannot(&format!(
                    "compressed, but the original is gone: {e}"
                )));
            }
        }
        sys::unlink_at(dir.fd.as_fd(), &name)
            .and_then(|()| sync_dir(dir.fd.as_fd()))
            .map_err(|e| cannot(&format!("compressed, but the original is still there: {e}")))?;
    }
    Ok(Compressed {
        path: path.with_file_name(&target),
        original: source.stat.size,
        stored,
    })
}

/// A session's compressed form, in place.
pub struct Compressed {
    path: PathBuf,
    original: u64,
    stored: u64,
}

impl fmt::Display for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "{path}: {}", smaller(self.original, self.stored))
    }
}

fn smaller(original: u64, stored: u64) -> String {
    format!(
        "{} stored as {} ({})",
        size::bytes(original),
        size::bytes(stored),
        size::ratio(original, stored)
    )
}

const CHANGED: &str = "it changed while it was being compressed; nothing was done to it";

/// A regular file as it was when it was opened.
struct Source {
    file: File,
    stat: Stat,
}

impl Source {
    /// Writes and checks the sealed form; returns its size.
    fn compress_into(&self, dir: &Directory, target: &OsStr) -> io::Result<u64> {
        let (file, size) = (&self.file, self.stat.size);
        let content = Content::Raw { file, size };
        let new = Hidden::create(dir)?;
        let mut builder = Builder::new(&new.file);
        let (progress, done) = (Progress::new("compressing"), Cell::new(0));
        let step = || {
            progress.show(|| format!("{} of {}", size::bytes(done.get()), size::bytes(size)));
            done.set(done.get() + FRAME_MAX);
            false
        };
        let mut encoder = Encoder::new(LEVEL_SEAL)?;
        builder
            .encode_rest(content, 0, &mut encoder, Builder::add, &step)
            .map_err(cut_short)?;
        builder.seal()?;
        if !builder.holds(content).map_err(cut_short)? {
            return Err(io::Error::other(
                "the compressed copy does not decode to the same bytes",
            ));
        }
        finish(file, &new.file, &builder.ends())?;
        if sys::fstat(file).map_or(true, |now| !same(&now, &self.stat)) {
            return Err(io::Error::other(CHANGED));
        }
        new.place(target)?;
        Ok(builder.ends().stored)
    }
}

/// A file that ends before its size when it was opened has been cut since.
fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other(CHANGED),
        _ => error,
    }
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.dev, a.ino, a.size, a.mtime) == (b.dev, b.ino, b.size, b.mtime)
}

// ---- decompress -------------------------------------------------------------------------------

/// Writes a compressed session as a plain file, beside it or as `out`. Returns what to tell about it.
pub fn decompress(path: &Path, out: Option<&Path>) -> Result<String, Failure> {
    let cannot = |reason: &dyn fmt::Display| Failure::at("cannot decompress", path, reason);
    let (dir, name) = split(path).map_err(|e| cannot(&e))?;
    let dir = Directory::open(&dir).map_err(|e| cannot(&e))?;
    if dir.mounted {
        return Err(cannot(
            &"already in the cellar, which shows it as a plain file",
        ));
    }
    let Some(plain) = visible_name(&name).filter(|plain| *plain != name) else {
        return Err(cannot(
            &"not a compressed session: its name does not end in .jsonl.zst",
        ));
    };
    let source = dir.source(&name).map_err(|e| cannot(&e))?;
    let out = out.map_or_else(|| path.with_file_name(plain), Path::to_path_buf);
    let no_out = |e: io::Error| Failure::at("cannot write", &out, e);
    let (out_dir, out_name) = split(&out).map_err(no_out)?;
    let out_dir = Directory::open(&out_dir).map_err(no_out)?;
    if out_dir.mounted {
        return Err(no_out(io::Error::other(
            "it lies in the cellar; decompress elsewhere, then copy it there",
        )));
    }
    out_dir.expect_free(&out_name).map_err(no_out)?;
    let index = frames::index(&source.file, source.stat.size).map_err(|e| cannot(&e))?;
    whole(&index).map_err(|e| cannot(&e).advise("`zstd -dc` gives what is before it"))?;
    let new = Hidden::create(&out_dir).map_err(no_out)?;
    decode(&source.file, &index, &new.file).map_err(|e| cannot(&e))?;
    carry_attributes(&source.file, &new.file)
        .and_then(|()| carry_times(&source.file, &new.file))
        .and_then(|()| new.file.sync_all())
        .and_then(|()| new.place(&out_name))
        .map_err(no_out)?;
    Ok(format!(
        "{}: {}\n",
        out.display(),
        size::bytes(index.ends.logical)
    ))
}

/// Half a session must not look like one.
fn whole(index: &Index) -> io::Result<()> {
    if let Some(at) = index.lost_at {
        return Err(frames::damaged(at, "frames are missing"));
    }
    match index.torn {
        0 => Ok(()),
        torn => {
            let what = format!("the last {} are no whole frame", size::count(torn, "byte"));
            Err(frames::damaged(index.ends.stored, &what))
        }
    }
}

fn decode(file: &File, index: &Index, to: &File) -> io::Result<()> {
    let mut reader = Content::Packed { file, index }.reader(0);
    let (mut buf, mut at) = (Vec::with_capacity(CHUNK), 0);
    let progress = Progress::new("decompressing");
    loop {
        buf.clear();
        match reader.read(&mut buf, CHUNK)? {
            0 => return Ok(()),
            n => {
                to.write_all_at(&buf, at)?;
                at += n as u64;
                progress.show(|| {
                    let all = size::bytes(index.ends.logical);
                    format!("{} of {all}", size::bytes(at))
                });
            }
        }
    }
}

// ---- archive ----------------------------------------------------------------------------------

/// Compresses the sessions in a directory and in the directories directly in it, all but the `keep`
/// newest of them together, the oldest first. Tells of each on `out`; one that cannot be compressed is
/// told of on `errors` and does not stop the others.
pub fn archive(
    dir: &Path,
    keep: usize,
    dry_run: bool,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<Exit, Failure> {
    let old = plain_but_newest(dir, keep)?;
    let told = |e: io::Error| Failure::new(format!("cannot write the output: {e}"));
    if old.is_empty() {
        writeln!(out, "nothing to compress").map_err(told)?;
        return Ok(Exit::Done);
    }
    if dry_run {
        plan(dir, &old, out).map_err(told)?;
        return Ok(Exit::Done);
    }
    let (mut done, mut original, mut stored) = (0, 0, 0);
    for session in &old {
        match compress(&dir.join(&session.path), false) {
            Ok(compressed) => {
                done += 1;
                original += compressed.original;
                stored += compressed.stored;
                writeln!(out, "{compressed}").map_err(told)?;
            }
            Err(failure) => {
                let _ = writeln!(errors, "{}: {failure}", mounts::NAME);
            }
        }
    }
    let (sessions, sizes) = (size::count(done, "session"), smaller(original, stored));
    let failed = old.len() as u64 - done;
    if failed == 0 {
        writeln!(out, "compressed {sessions}, {sizes}").map_err(told)?;
        return Ok(Exit::Done);
    }
    writeln!(
        out,
        "compressed {sessions}, {sizes}; {failed} not compressed"
    )
    .map_err(told)?;
    Ok(Exit::Failed)
}

/// The plain sessions among all but the newest, the oldest first.
fn plain_but_newest(dir: &Path, keep: usize) -> Result<Vec<Surveyed>, Failure> {
    let cannot =
        |path: &Path, reason: &dyn fmt::Display| Failure::at("cannot archive", path, reason);
    let root = Directory::open(dir).map_err(|e| cannot(dir, &e))?;
    if root.mounted {
        return Err(cannot(
            dir,
            &"already in the cellar, which compresses by itself",
        ));
    }
    let sessions = survey::near(dir, root.fd.as_fd()).map_err(|(path, e)| cannot(&path, &e))?;
    // What is compressed already counts: the newest stay the newest, however often this is done.
    let old = sessions.into_iter().skip(keep).rev();
    Ok(old.filter(|session| session.packed.is_none()).collect())
}

fn plan(dir: &Path, old: &[Surveyed], out: &mut dyn Write) -> io::Result<()> {
    let size = |session: &Surveyed| session.stat.size;
    for session in old {
        let path = dir.join(&session.path);
        writeln!(out, "{}: {}", path.display(), size::bytes(size(session)))?;
    }
    let sessions = size::count(old.len() as u64, "session");
    let sum = size::bytes(old.iter().map(size).sum());
    writeln!(out, "would compress {sessions}, {sum}")
}

// ---- directories and names --------------------------------------------------------------------

/// A path's directory and last component.
fn split(path: &Path) -> io::Result<(PathBuf, OsString)> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("it names no file"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    Ok((dir.unwrap_or(Path::new(".")).to_owned(), name.to_owned()))
}

struct Directory {
    fd: OwnedFd,
    mounted: bool,
}

impl Directory {
    fn open(path: &Path) -> io::Result<Directory> {
        let file = File::open(path)?;
        let mounted = mounts::in_cellar(&file)?;
        let fd = file.into();
        Ok(Directory { fd, mounted })
    }

    /// Opens a regular file of the directory.
    fn source(&self, name: &OsStr) -> io::Result<Source> {
        let stat = sys::stat_at(self.fd.as_fd(), name)?;
        match stat.mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFLNK => {
                return Err(io::Error::other("it is a symbolic link; name its target"));
            }
            _ => return Err(io::Error::other("it is no regular file")),
        }
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file: File = sys::open_at(self.fd.as_fd(), name, flags, 0)?.into();
        let stat = sys::fstat(&file)?;
        if !stat.is(libc::S_IFREG) {
            return Err(errno(libc::EINVAL));
        }
        Ok(Source { file, stat })
    }

    /// Told before the work rather than after it; placing is what makes sure.
    fn expect_free(&self, name: &OsStr) -> io::Result<()> {
        match sys::stat_at(self.fd.as_fd(), name) {
            Err(e) if is(&e, libc::ENOENT) => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Err(taken(name)),
        }
    }
}

fn taken(name: &OsStr) -> io::Error {
    let reason = format!(
        "{} is there already and is never overwritten",
        name.display()
    );
    io::Error::new(io::ErrorKind::AlreadyExists, reason)
}

/// A new file without a visible name, removed unless it gets one.
struct Hidden<'a> {
    dir: &'a Directory,
    name: OsString,
    file: File,
}

impl<'a> Hidden<'a> {
    fn create(dir: &'a Directory) -> io::Result<Hidden<'a>> {
        // The hasher's keys are random: nobody can put something there beforehand.
        let random = RandomState::new().build_hasher().finish();
        let name = OsString::from(format!(".cellar-{:x}-{random:016x}", std::process::id()));
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let file = sys::open_at(dir.fd.as_fd(), &name, flags, 0o600)?.into();
        Ok(Hidden { dir, name, file })
    }

    /// Gives the file, which must be complete and synced, its name, durably. A name that is taken
    /// stays what it is.
    fn place(&self, name: &OsStr) -> io::Result<()> {
        let dir = self.dir.fd.as_fd();
        let placed = match sys::link_at(dir, &self.name, dir, name) {
            // File systems without links.
            Err(e) if is(&e, libc::EPERM) || is(&e, libc::EOPNOTSUPP) || is(&e, libc::EMLINK) => {
                sys::rename_at(dir, &self.name, dir, name, libc::RENAME_NOREPLACE)
            }
            linked => linked,
        };
        match placed {
            Err(e) if is(&e, libc::EEXIST) => Err(taken(name)),
            Err(e) => Err(e),
            Ok(()) => {
                self.remove();
                sync_dir(dir)
            }
        }
    }

    fn remove(&self) {
        let _ = sys::unlink_at(self.dir.fd.as_fd(), &self.name);
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A file that was placed has lost this name before.
        self.remove();
    }
}

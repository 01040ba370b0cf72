//! `verify --repair`: makes damaged sessions whole again out of what can still be decoded.
//!
//! Nothing stored is deleted. A damaged session's store file first gets a second name in
//! `.cellar/recovered`; then a new one, built from the frames that decode, decoded again, compared
//! with them and synced, is renamed over the old. A kill at any instant leaves the old file in its
//! place, or the new one there and the old one in `recovered`. A full disk leaves the old one.
//!
//! A frame that fails its check is left out whole: which of its bytes are right nobody can tell. A
//! session of which nothing decodes stays where it is, for an error is better than an empty session.
//!
//! The store is held exclusively, so that no daemon has a session open that is replaced.

use crate::config::Config;
use crate::examine::{Finding, Hopeless, Looked, Named, Repaired};
use crate::exit::{Exit, Failure};
use crate::frames::{Checker, Frame, Index};
use crate::inspect::{self, Fault};
use crate::mounts;
use crate::names::{OWN, Place, is_session, packed_name, sidecar_name};
use crate::rewrite::{Builder, Content};
use crate::session::finish;
use crate::size;
use crate::store::{Hint, Store, sync_dir};
use crate::sys::{self, SetTime, Stat, is};
use crate::verify;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Verifies the paths, or the configured store, repairs what is damaged, and writes what it did and
/// what remains to `out`.
pub fn run(
    config: &Config,
    paths: &[PathBuf],
    json: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let configured = [config.store_dir.clone()];
    let given = if paths.is_empty() { &configured } else { paths };
    let (mut stores, mut resolved) = (Vec::new(), Vec::new());
    for path in given {
        let (root, path) = belongs(config, path)?;
        if !stores.iter().any(|store: &Store| store.path() == root) {
            stores.push(open(&root, config.compress_bundles)?);
        }
        resolved.push(path);
    }
    let look = |session: &Named, checker: &mut Checker, done: &dyn Fn(u64)| {
        look(&stores, session, checker, done)
    };
    verify::check(&resolved, &look, verify::Told { json, repair: true }, out)
}

// ---- which store ------------------------------------------------------------------------------

/// The store that a path lies in, and the path without symbolic links.
fn belongs(config: &Config, path: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let cannot = |reason: &dyn std::fmt::Display| Failure::at("cannot repair", path, reason);
    let resolved = resolve(path).map_err(|e| cannot(&e))?;
    let dir = resolved.ancestors().find_map(|dir| File::open(dir).ok());
    if let Some(dir) = dir
        && mounts::in_cellar(&dir).map_err(|e| cannot(&e))?
    {
        let failure = cannot(&"it lies in a mounted cellar");
        return Err(failure.advise("unmount it, and name its store or nothing"));
    }
    let root = match config.store_dir.canonicalize() {
        Ok(store) if resolved.starts_with(&store) => store,
        _ => resolved
            .ancestors()
            .find(|dir| is_store(dir))
            .ok_or_else(|| cannot(&"it lies in no store").advise(NO_STORE))?
            .to_owned(),
    };
    if resolved.starts_with(root.join(OWN)) {
        return Err(cannot(&"it is the cellar's own, not a session"));
    }
    Ok((root, resolved))
}

const NO_STORE: &str = "set CLAUDE_CELLAR_STORE_DIR to its store if it was never mounted";

/// A session's visible name need not exist in the store.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(_), Some(dir), Some(name)) if is_session(name) => {
            let dir = if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            };
            Ok(dir.canonicalize()?.join(name))
        }
        (resolved, _, _) => resolved,
    }
}

fn is_store(dir: &Path) -> bool {
    let own = dir.join(OWN).symlink_metadata();
    own.is_ok_and(|own| own.is_dir())
}

fn open(root: &Path, bundles: bool) -> Result<Store, Failure> {
    let store = Store::open(root, true, bundles).map_err(|e| {
        if is(&e, libc::EAGAIN) {
            let reason = "a daemon or another repair is using the store";
            Failure::at("cannot repair", root, reason).advise(
                "stop it first: `systemctl --user stop claude-cellar` or `claude-cellar umount`",
            )
        } else {
            Failure::at("cannot repair", root, e)
        }
    })?;
    // What a killed repair left unfinished takes space that this one may need.
    let swept = store.sweep();
    swept.map_err(|e| Failure::at("cannot clear the temporary files of", root, e))?;
    Ok(store)
}

// ---- one session ------------------------------------------------------------------------------

fn look(
    stores: &[Store],
    session: &Named,
    checker: &mut Checker,
    done: &dyn Fn(u64),
) -> Option<Looked> {
    let mut looked = session.look(checker, done)?;
    let within = |store: &Store| Some(session.dir.strip_prefix(store.path()).ok()?.to_owned());
    let (store, dir) = stores.iter().find_map(|s| Some((s, within(s)?)))?;
    let name = session.name.clone();
    match mend(store, session, Place { dir, name }, &looked, checker) {
        Ok(None) => {}
        Ok(repaired) => {
            looked = session.look(checker, &|_| ())?;
            looked.repaired = repaired;
        }
        Err(e) => {
            let (path, why) = (session.dir.join(&session.name), why(&e));
            looked.hopeless = Some(Hopeless { path, why });
        }
    }
    Some(looked)
}

fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => format!("{error}; free some space and repair again"),
        _ => error.to_string(),
    }
}

/// Repairs a session that was looked at; `None` if there is nothing that a repair could do.
fn mend(
    store: &Store,
    session: &Named,
    place: Place,
    looked: &Looked,
    checker: &mut Checker,
) -> io::Result<Option<Repaired>> {
    let Some(packed) = packed_name(&place.name) else {
        return Ok(None);
    };
    let dir = store.dir(&place.dir)?;
    let stat = match sys::stat_at(dir.as_fd(), &packed) {
        Err(e) if is(&e, libc::ENOENT) => return Ok(None),
        stat => stat?,
    };
    let path = session.dir.join(&packed);
    let raw = sys::stat_at(dir.as_fd(), &place.name).is_ok_and(|raw| raw.is(libc::S_IFREG));
    let blamed = |finding: &Finding| finding.path == path;
    let empty = stat.size == 0 && !raw;
    if !stat.is(libc::S_IFREG) || !(empty || looked.findings.iter().any(blamed)) {
        return Ok(None);
    }
    // Readers see the raw form; but where that cannot be read, this one is all there is.
    if raw && !looked.findings.iter().all(blamed) {
        return Ok(None);
    }
    let damaged = Damaged {
        store,
        place,
        dir,
        packed,
    };
    let (what, kept) = match raw {
        true => damaged.move_aside()?,
        false => damaged.mend(checker)?,
    };
    let recovered = store.path().join(OWN).join("recovered");
    let kept = kept.map(|name| recovered.join(name));
    Ok(Some(Repaired { path, what, kept }))
}

/// A session whose compressed form is to be repaired.
struct Damaged<'a> {
    store: &'a Store,
    place: Place,
    dir: OwnedFd,
    /// The store file's name.
    packed: OsString,
}

/// What was done, and the name in `recovered` that bytes were kept under.
type Done = (String, Option<OsString>);

impl Damaged<'_> {
    /// Beside a raw form that is the session.
    fn move_aside(&self) -> io::Result<Done> {
        let dir = self.dir.as_fd();
        let kept = self.store.recover_file(&self.place, dir, &self.packed)?;
        sync_dir(dir)?;
        let what = format!("moved aside, {} is the session", self.place.name.display());
        Ok((what, Some(kept)))
    }

    fn mend(&self, checker: &mut Checker) -> io::Result<Done> {
        let dir = self.dir.as_fd();
        let file = self.store.open_file(dir, &self.packed, libc::O_RDWR)?;
        let size = sys::fstat(&file)?.size;
        let mut faults = Vec::new();
        let index = inspect::packed(&file, size, checker, &mut faults, &|_| ())?;
        let only = |kind: fn(&Fault) -> bool| size > 0 && faults.iter().all(kind);
        if only(|fault| matches!(fault, Fault::Hint { .. })) {
            Hint::from(index.ends).set(file.as_fd());
            return Ok(("the note of its size was corrected".into(), None));
        }
        // Where nothing closes the sealed part, a seek table is torn, which is built anew.
        let closed = index.ends.sealed > 0;
        if closed && only(|fault| matches!(fault, Fault::Torn { .. } | Fault::Hint { .. })) {
            return self.set_torn_aside(&file, &index);
        }
        self.rebuild(&file, &index, checker)
    }

    /// As the daemon's next write would.
    fn set_torn_aside(&self, file: &File, index: &Index) -> io::Result<Done> {
        let stat = sys::fstat(file)?;
        let mut from = file;
        from.seek(SeekFrom::Start(index.ends.stored))?;
        let mut torn = from.take(index.torn);
        let kept = self.store.recover_bytes(&self.place, &mut torn)?;
        file.set_len(index.ends.stored)?;
        sys::utimens(file, SetTime::Omit, SetTime::At(stat.mtime))?;
        file.sync_all()?;
        let what = format!(
            "a torn append of {} was set aside",
            size::count(index.torn, "byte")
        );
        Ok((what, Some(kept)))
    }

    /// Puts a file of the frames that decode in the session's place.
    fn rebuild(&self, file: &File, index: &Index, checker: &mut Checker) -> io::Result<Done> {
        let sound = sound(file, index, checker)?;
        let lossless = index.lost_at.is_none() && sound.frames.len() == index.frames.len();
        let size = sound.ends.logical;
        if size == 0 && !lossless {
            return Err(io::Error::other(
                "nothing in it can be decoded, so it stays as it is; put a backup in its place, \
                 or delete it",
            ));
        }
        let dir = self.dir.as_fd();
        self.store.apply_sidecar(dir, &self.place.name)?;
        let old = sys::fstat(file)?;
        let temporary = self.store.temporary()?;
        let mut builder = Builder::new(&temporary.file);
        let closed = sound
            .frames
            .partition_point(|f| index.ends.sealed == 0 || f.at + f.len <= index.ends.sealed);
        let (sealed, appended) = sound.frames.split_at(closed);
        builder.keep(file, sealed)?;
        builder.seal()?;
        builder.carry(file, appended)?;
        let content = Content::Packed {
            file,
            index: &sound,
        };
        if !builder.holds(content)? {
            return Err(io::Error::other(
                "the repaired copy does not decode to the same bytes",
            ));
        }
        finish(file, &temporary.file, &builder.ends())?;
        let kept = match old.size {
            0 => None,
            _ => Some(self.keep(file, &old)?),
        };
        temporary.place(dir, &self.packed)?;
        sync_dir(dir)?;
        let lost = index.ends.logical.saturating_sub(size);
        let what = match lossless {
            true => format!("rebuilt, with all its {}", size::count(size, "byte")),
            false => format!(
                "rebuilt from the {} that can be decoded, at least {lost} are lost",
                size::count(size, "byte")
            ),
        };
        Ok((what, kept))
    }

    /// Keeps the store file, and 0.3.0's note on it, before another takes its place.
    fn keep(&self, file: &File, old: &Stat) -> io::Result<OsString> {
        let dir = self.dir.as_fd();
        file.sync_all()?;
        let kept = self.store.recover_link(&self.place, dir, &self.packed)?;
        if let Some(sidecar) = sidecar_name(&self.place.name)
            && sys::stat_at(dir, &sidecar).is_ok()
        {
            self.store.recover_file(&self.place, dir, &sidecar)?;
        }
        let now = sys::stat_at(dir, &self.packed)?;
        let same = |s: &Stat| (s.dev, s.ino, s.size, s.mtime);
        if same(&now) != same(old) {
            let reason = "it changed meanwhile; end what else writes to the store";
            return Err(io::Error::other(reason));
        }
        Ok(kept)
    }
}

/// The frames that decode, one after the other as if nothing had been between them.
fn sound(file: &File, index: &Index, checker: &mut Checker) -> io::Result<Index> {
    let mut sound = Index::default();
    for frame in &index.frames {
        match checker.verify(file, frame) {
            // What the disk does not give is lost as well; other failures say nothing about it.
            Err(e) if e.kind() == io::ErrorKind::InvalidData || is(&e, libc::EIO) => continue,
            checked => checked?,
        }
        let start = sound.ends.logical;
        sound.frames.push(Frame { start, ..*frame });
        sound.ends.logical += frame.size;
    }
    Ok(sound)
}

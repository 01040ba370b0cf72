//! Git's loose objects, written without the `git` program.
//!
//! An object is complete under a temporary name before it is renamed to its own, so whoever sees it
//! sees all of it; a kill leaves a `tmp_obj_` file, which `git prune` knows and removes. Objects are
//! never changed. Reading goes to `git` only for what has been packed.
//!
//! Format: <https://git-scm.com/docs/gitformat-loose>, `zlib(kind SP size NUL body)`.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};

use super::oid::Oid;

/// Larger files are hashed and compressed in pieces of this size; smaller ones whole.
const PIECE: usize = 1 << 20;

/// How often a directory that was just made may be gone again.
const TRIES: u32 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Blob,
    Tree,
    Commit,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Blob => "blob",
            Kind::Tree => "tree",
            Kind::Commit => "commit",
        }
    }
}

/// Why a file is not stored.
#[derive(Debug)]
pub enum FileError {
    /// Of the file: `UnexpectedEof` when it has fewer bytes.
    Read(io::Error),
    /// Its bytes changed between being hashed and being stored.
    Changed,
    Store(io::Error),
}

/// The object directory of a git directory.
pub struct Objects {
    dir: PathBuf,
    written: Cell<u32>,
    /// Its tables are large: to make them anew takes longer than most objects.
    encoder: Cell<Option<ZlibEncoder<Out>>>,
}

/// The file that an object is written to; between objects there is none.
struct Out(Option<BufWriter<File>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(file) => file.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

impl Objects {
    pub fn new(git_dir: &Path) -> Objects {
        Objects {
            dir: git_dir.join("objects"),
            written: Cell::new(0),
            encoder: Cell::new(None),
        }
    }

    /// Stores an object unless it is there.
    pub fn write(&self, kind: Kind, body: &[u8]) -> io::Result<Oid> {
        let header = header(kind, body.len() as u64);
        let oid = finish(Sha1::new().chain_update(&header).chain_update(body));
        if !self.has_loose(oid) {
            self.put(oid, |out| {
                out.write_all(&header)?;
                out.write_all(body)
            })?;
        }
        Ok(oid)
    }

    /// Stores the first `size` bytes of a file as a blob, in bounded memory.
    pub fn write_file(&self, file: &File, size: u64) -> Result<Oid, FileError> {
        if size <= PIECE as u64 {
            let mut body = vec![0; size as usize];
            file.read_exact_at(&mut body, 0).map_err(FileError::Read)?;
            return self.write(Kind::Blob, &body).map_err(FileError::Store);
        }
        let header = header(Kind::Blob, size);
        let mut sha = Sha1::new().chain_update(&header);
        pieces(file, size, |piece| {
            sha.update(piece);
            Ok(())
        })?;
        let oid = finish(sha);
        if self.has_loose(oid) {
            return Ok(oid);
        }
        let mut again = Sha1::new().chain_update(&header);
        let mut unread = None;
        let put = self.put(oid, |out| {
            out.write_all(&header)?;
            let read = pieces(file, size, |piece| {
                again.update(piece);
                out.write_all(piece)
            });
            match read {
                Err(FileError::Store(error)) => Err(error),
                Ok(()) if finish(again) == oid => Ok(()),
                other => {
                    unread = Some(other.err().unwrap_or(FileError::Changed));
                    Err(io::ErrorKind::Interrupted.into())
                }
            }
        });
        match (put, unread) {
            (_, Some(error)) => Err(error),
            (put, None) => put.map(|()| oid).map_err(FileError::Store),
        }
    }

    /// The body of a loose object; `NotFound` when it is packed or absent.
    pub fn read_loose(&self, oid: Oid) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        ZlibDecoder::new(File::open(self.path(oid))?).read_to_end(&mut bytes)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        let end = end.ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.split_off(end + 1))
    }

    /// Empty files are what a power cut leaves of an object that was never synced.
    fn has_loose(&self, oid: Oid) -> bool {
        fs::metadata(self.path(oid)).is_ok_and(|meta| meta.len() > 0)
    }

    fn path(&self, oid: Oid) -> PathBuf {
        let name = oid.to_string();
        self.dir.join(&name[..2]).join(&name[2..])
    }

    fn put(
        &self,
        oid: Oid,
        body: impl FnOnce(&mut ZlibEncoder<Out>) -> io::Result<()>,
    ) -> io::Result<()> {
        let path = self.path(oid);
        let number = self.written.replace(self.written.get() + 1);
        let temporary = self
            .dir
            .join(format!("tmp_obj_{}_{number}", std::process::id()));
        let create = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o444);
            options.open(&temporary)
        };
        let file = create().or_else(|error| match error.kind() {
            // Of a process that was killed and had this one's number.
            io::ErrorKind::AlreadyExists => fs::remove_file(&temporary).and_then(|()| create()),
            _ => Err(error),
        })?;
        let done = self
            .compress(file, body)
            .and_then(|()| self.name(&temporary, &path));
        if done.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        done
    }

    /// Writes an object into its file, all of it.
    fn compress(
        &self,
        file: File,
        body: impl FnOnce(&mut ZlibEncoder<Out>) -> io::Result<()>,
    ) -> io::Result<()> {
        let kept = self.encoder.take();
        let mut encoder = kept.unwrap_or_else(|| ZlibEncoder::new(Out(None), Compression::fast()));
        encoder.reset(Out(Some(BufWriter::with_capacity(64 << 10, file))))?;
        body(&mut encoder)?;
        let written = encoder.reset(Out(None))?;
        self.encoder.set(Some(encoder));
        written.0.map_or(Ok(()), |mut file| file.flush())
    }

    /// Gives an object its name, in a directory that git removes whenever it finds it empty.
    fn name(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        let mut tries = 0..TRIES;
        loop {
            match fs::rename(temporary, path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries.next().is_some() => {
                    fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
                }
                done => return done,
            }
        }
    }
}

fn header(kind: Kind, size: u64) -> Vec<u8> {
    format!("{} {size}\0", kind.name()).into_bytes()
}

fn finish(sha: Sha1) -> Oid {
    Oid(sha.finalize().into())
}

fn pieces(
    file: &File,
    size: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), FileError> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let length = PIECE.min((size - at) as usize);
        let piece = &mut piece[..length];
        file.read_exact_at(piece, at).map_err(FileError::Read)?;
        each(piece).map_err(FileError::Store)?;
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn an_object_is_stored_while_git_clears_empty_directories_away() {
        let dir = std::env::temp_dir().join(format!("agentfs-objects-{}", std::process::id()));
        fs::create_dir_all(dir.join("objects")).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for name in 0..=255 {
                        let _ = fs::remove_dir(dir.join(format!("objects/{name:02x}")));
                    }
                }
            });
            let objects = Objects::new(&dir);
            let failed = (0..2_000u32)
                .map(|n| objects.write(Kind::Blob, &n.to_le_bytes()))
                .find(Result::is_err);
            over.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
        fs::remove_dir_all(&dir).unwrap();
    }
}

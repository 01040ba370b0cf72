//! Building a store file anew: what is kept is copied, the rest encoded, the whole compared.
//!
//! Shared by everything that replaces a store file (fold, seal, cut, change of form, `compress`). The
//! result is written to a temporary file; [`compare`] decodes it again and compares it with its
//! source byte for byte before anybody puts it in a place.

use crate::frames::{self, Encoder, Ends, FRAME_MAX, Frame, Index, Stream, TRAILER, Trailer};
use crate::sys;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes compared or copied at a time.
const CHUNK: usize = 1 << 20;

/// The decoded content of a file in either form.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    Raw { file: &'a File, size: u64 },
    Packed { file: &'a File, index: &'a Index },
}

impl<'a> Content<'a> {
    pub fn size(&self) -> u64 {
        match self {
            Content::Raw { size, .. } => *size,
            Content::Packed { index, .. } => index.ends.logical,
        }
    }

    /// A reader from decoded offset `from`, for packed content a frame's start.
    pub fn reader(&self, from: u64) -> Reader<'a> {
        match *self {
            Content::Raw { file, size } => Reader::Raw {
                file,
                size,
                pos: from,
            },
            Content::Packed { file, index } => Reader::Packed(Stream::new(file, index, from)),
        }
    }
}

/// Reads content from front to back.
pub enum Reader<'a> {
    Raw { file: &'a File, size: u64, pos: u64 },
    Packed(Stream<'a>),
}

impl Reader<'_> {
    /// Appends up to `room` bytes to `out`; fewer only at the end.
    pub fn read(&mut self, out: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        match self {
            Reader::Packed(stream) => stream.read(out, room),
            Reader::Raw { file, size, pos } => {
                let (before, n) = (out.len(), room.min((*size - *pos) as usize));
                out.resize(before + n, 0);
                file.read_exact_at(&mut out[before..], *pos)?;
                *pos += n as u64;
                Ok(n)
            }
        }
    }
}

/// Whether two contents are the same bytes.
pub fn compare(a: Content, b: Content) -> io::Result<bool> {
    if a.size() != b.size() {
        return Ok(false);
    }
    let (mut a, mut b) = (a.reader(0), b.reader(0));
    let (mut left, mut right) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    loop {
        left.clear();
        right.clear();
        let n = a.read(&mut left, CHUNK)?;
        b.read(&mut right, CHUNK)?;
        if left != right {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

/// Writes decoded content to a plain file.
pub fn write_plain(content: Content, out: &File) -> io::Result<()> {
    let (mut reader, mut buf, mut at) = (content.reader(0), Vec::with_capacity(CHUNK), 0);
    loop {
        buf.clear();
        match reader.read(&mut buf, CHUNK)? {
            0 => return Ok(()),
            n => {
                out.write_all_at(&buf, at)?;
                at += n as u64;
            }
        }
    }
}

/// A new store file, written front to back.
pub struct Builder<'a> {
    out: &'a File,
    /// Frames since the start of the file, as long as nothing but frames has been written.
    sealing: Vec<Frame>,
    ends: Ends,
}

impl<'a> Builder<'a> {
    pub fn new(out: &'a File) -> Builder<'a> {
        Builder {
            out,
            sealing: Vec::new(),
            ends: Ends::default(),
        }
    }

    /// Goes on after what has been written and ended before.
    pub fn resume(out: &'a File, ends: Ends) -> Builder<'a> {
        Builder {
            out,
            sealing: Vec::new(),
            ends,
        }
    }

    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// Copies the source's stored bytes up to the end of what `ends` describes, trailers and tables
    /// included: they stay valid because they keep their offsets.
    pub fn copy_start(&mut self, from: &File, ends: Ends) -> io::Result<()> {
        copy(from, 0, self.out, 0, ends.stored)?;
        self.ends = ends;
        Ok(())
    }

    /// Copies frames as they are, without trailers: the start of a sealed file.
    pub fn keep(&mut self, from: &File, frames: &[Frame]) -> io::Result<()> {
        for frame in frames {
            copy(from, frame.at, self.out, self.ends.stored, frame.len)?;
            self.note(frame.len, frame.size);
        }
        Ok(())
    }

    /// Encodes one frame of a sealed file.
    pub fn add(&mut self, encoder: &mut Encoder, data: &[u8]) -> io::Result<()> {
        let frame = encoder.encode(data)?;
        self.out.write_all_at(frame, self.ends.stored)?;
        self.note(frame.len() as u64, data.len() as u64);
        Ok(())
    }

    fn note(&mut self, len: u64, size: u64) {
        self.sealing.push(Frame {
            at: self.ends.stored,
            len,
            start: self.ends.logical,
            size,
        });
        self.ends.stored += len;
        self.ends.logical += size;
    }

    /// Ends the sealed part: a seek table, or for a session of one frame that may still grow a
    /// closing trailer.
    pub fn seal(&mut self) -> io::Result<()> {
        let single = match self.sealing.as_slice() {
            [] => Some(0),
            [frame] if frame.size < FRAME_MAX => u32::try_from(frame.len).ok(),
            _ => None,
        };
        if let Some(frame_len) = single {
            self.ends.sealed = self.ends.stored + TRAILER;
            return self.trailer(frame_len);
        }
        let table = frames::encode_seek_table(&self.sealing)?;
        self.out.write_all_at(&table, self.ends.stored)?;
        self.ends.stored += table.len() as u64;
        self.ends.sealed = self.ends.stored;
        Ok(())
    }

    fn trailer(&mut self, frame_len: u32) -> io::Result<()> {
        let trailer = Trailer {
            logical: self.ends.logical,
            sealed_end: self.ends.sealed,
            frame_len,
        };
        self.out
            .write_all_at(&trailer.encode(self.ends.stored), self.ends.stored)?;
        self.ends.stored += TRAILER;
        Ok(())
    }

    /// Encodes one frame after the sealed part, with its trailer.
    pub fn append(&mut self, encoder: &mut Encoder, data: &[u8]) -> io::Result<()> {
        let frame = encoder.encode(data)?;
        let len = frame_len(frame.len() as u64)?;
        self.out.write_all_at(frame, self.ends.stored)?;
        self.ends.stored += frame.len() as u64;
        self.ends.logical += data.len() as u64;
        self.trailer(len)
    }

    /// Takes frames over that were appended to the source meanwhile, each with a new trailer.
    pub fn carry(&mut self, from: &File, frames: &[Frame]) -> io::Result<()> {
        for frame in frames {
            copy(from, frame.at, self.out, self.ends.stored, frame.len)?;
            self.ends.stored += frame.len;
            self.ends.logical += frame.size;
            self.trailer(frame_len(frame.len)?)?;
        }
        Ok(())
    }

    /// Encodes all content from decoded offset `from` in frames of at most [`FRAME_MAX`].
    /// `write` is [`Builder::add`] or [`Builder::append`]; `stop` is asked between frames.
    pub fn encode_rest(
        &mut self,
        content: Content,
        from: u64,
        encoder: &mut Encoder,
        write: fn(&mut Self, &mut Encoder, &[u8]) -> io::Result<()>,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let mut reader = content.reader(from);
        let mut data = Vec::with_capacity(FRAME_MAX.min(content.size() - from) as usize);
        loop {
            data.clear();
            if reader.read(&mut data, FRAME_MAX as usize)? == 0 {
                return Ok(());
            }
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            write(self, encoder, &data)?;
        }
    }

    /// Whether the file now decodes to exactly this content, read back through its own index.
    pub fn holds(&self, content: Content) -> io::Result<bool> {
        let index = frames::index(self.out, self.ends.stored)?;
        Ok(index.ends == self.ends
            && compare(
                Content::Packed {
                    file: self.out,
                    index: &index,
                },
                content,
            )?)
    }
}

fn frame_len(len: u64) -> io::Result<u32> {
    u32::try_from(len)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "frame too large for a trailer"))
}

/// Copies a range between files, in the kernel where it can.
pub fn copy(from: &File, at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        match sys::copy_range(
            from,
            (at + done) as i64,
            to,
            (to_at + done) as i64,
            (len - done) as usize,
        ) {
            Ok(0) => return Err(frames::damaged(at + done, "store file ends early")),
            Ok(n) => done += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e)
                if [libc::EXDEV, libc::EOPNOTSUPP, libc::EINVAL, libc::ENOSYS]
                    .iter()
                    .any(|&c| sys::is(&e, c)) =>
            {
                break;
            }
            Err(e) => return Err(e),
        }
    }
    let mut buf = vec![
        0;
        if done < len {
            CHUNK.min((len - done) as usize)
        } else {
            0
        }
    ];
    while done < len {
        let n = buf.len().min((len - done) as usize);
        from.read_exact_at(&mut buf[..n], at + done)?;
        to.write_all_at(&buf[..n], to_at + done)?;
        done += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::LEVEL_APPEND;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn file(bytes: &[u8]) -> File {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cellar-rewrite-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn encoder() -> Encoder {
        Encoder::new(LEVEL_APPEND).unwrap()
    }

    fn index(file: &File) -> Index {
        frames::index(file, file.metadata().unwrap().len()).unwrap()
    }

    fn raw(file: &File) -> Content<'_> {
        let size = file.metadata().unwrap().len();
        Content::Raw { file, size }
    }

    /// Bytes of which no two blocks are alike.
    fn session(size: usize) -> Vec<u8> {
        let mut bytes = vec![b'.'; size];
        for (n, block) in bytes.chunks_exact_mut(1000).enumerate() {
            block[..8].copy_from_slice(&n.to_le_bytes());
        }
        bytes
    }

    fn seal(content: Content) -> (File, Ends) {
        let out = file(b"");
        let mut builder = Builder::new(&out);
        let (mut encoder, go_on) = (encoder(), || false);
        builder
            .encode_rest(content, 0, &mut encoder, Builder::add, &go_on)
            .unwrap();
        builder.seal().unwrap();
        assert!(builder.holds(content).unwrap());
        let ends = builder.ends();
        (out, ends)
    }

    #[test]
    fn what_is_sealed_is_found_by_its_ends() {
        let max = FRAME_MAX as usize;
        for (size, count) in [
            (0, 0),
            (1, 1),
            (max - 1, 1),
            (max, 1),
            (max + 1, 2),
            (2 * max, 2),
        ] {
            let plain = file(&session(size));
            let (stored, ends) = seal(raw(&plain));
            assert!(ends.is_sealed(), "{size}");
            assert_eq!(ends.logical, size as u64);
            assert_eq!(ends.stored, stored.metadata().unwrap().len());
            assert_eq!(frames::ends(&stored, ends.stored).unwrap(), Some(ends));
            let index = index(&stored);
            assert_eq!(index.frames.len(), count, "{size}");
            assert!(!index.foreign);
            let back = file(b"");
            let (file, index) = (&stored, &index);
            write_plain(Content::Packed { file, index }, &back).unwrap();
            assert!(compare(raw(&back), raw(&plain)).unwrap());
        }
    }

    #[test]
    fn a_copy_that_differs_is_not_held() {
        let data = session(10_000);
        let (stored, ends) = seal(raw(&file(&data)));
        let builder = Builder::resume(&stored, ends);
        let mut other = data.clone();
        other[9_999] ^= 1;
        assert!(builder.holds(raw(&file(&data))).unwrap());
        assert!(!builder.holds(raw(&file(&other))).unwrap());
        assert!(!builder.holds(raw(&file(&data[..9_999]))).unwrap());
        let wrong = Ends {
            logical: 9_999,
            ..ends
        };
        assert!(
            !Builder::resume(&stored, wrong)
                .holds(raw(&file(&data[..9_999])))
                .unwrap()
        );
        stored.write_all_at(b"!", ends.stored / 2).unwrap();
        assert!(!builder.holds(raw(&file(&data))).unwrap_or(false));
    }

    #[test]
    fn appended_frames_are_carried_with_new_trailers() {
        let (start, more) = (session(5_000), [b"one\n".to_vec(), b"two\n".to_vec()]);
        let (old, ends) = seal(raw(&file(&start)));
        let mut builder = Builder::resume(&old, ends);
        for line in &more {
            builder.append(&mut encoder(), line).unwrap();
        }
        let found = index(&old);
        assert_eq!(found.ends, builder.ends());
        assert_eq!(found.frames.len(), 3);
        // The new file's frames lie elsewhere, because it is sealed at another level.
        let new = file(b"");
        let mut builder = Builder::new(&new);
        builder.add(&mut Encoder::new(9).unwrap(), &start).unwrap();
        builder.seal().unwrap();
        let sealed = builder.ends().sealed;
        builder.carry(&old, &found.frames[1..]).unwrap();
        assert_eq!(builder.ends().sealed, sealed);
        let all = file(&[start, more.concat()].concat());
        assert!(builder.holds(raw(&all)).unwrap());
    }

    #[test]
    fn kept_frames_and_copied_starts_stay_as_they_are() {
        let max = FRAME_MAX as usize;
        let data = session(max + 3_000);
        let (old, ends) = seal(raw(&file(&data)));
        let found = index(&old);
        let new = file(b"");
        let mut builder = Builder::new(&new);
        builder.keep(&old, &found.frames[..1]).unwrap();
        builder.add(&mut encoder(), &data[max..]).unwrap();
        builder.seal().unwrap();
        assert!(builder.holds(raw(&file(&data))).unwrap());
        assert_eq!(index(&new).frames[0], found.frames[0]);

        let copy = file(b"");
        let mut builder = Builder::new(&copy);
        builder.copy_start(&old, ends).unwrap();
        builder.append(&mut encoder(), b"more").unwrap();
        let longer = file(&[&data[..], b"more"].concat());
        assert!(builder.holds(raw(&longer)).unwrap());
        assert_eq!(index(&copy).ends.sealed, ends.sealed);
    }

    #[test]
    fn a_pass_that_is_told_to_stop_stops() {
        let (plain, out) = (file(b"data"), file(b""));
        let mut builder = Builder::new(&out);
        let stopped = builder.encode_rest(raw(&plain), 0, &mut encoder(), Builder::add, &|| true);
        assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let plain = file(b"data");
        let content = Content::Raw {
            file: &plain,
            size: 9,
        };
        assert!(write_plain(content, &file(b"")).is_err());
        let mut builder = Builder::new(&plain);
        let frame = Frame {
            at: 100,
            len: 5,
            start: 0,
            size: 5,
        };
        assert!(builder.keep(&file(b"short"), &[frame]).is_err());
    }

    #[test]
    fn compare_sees_sizes_and_bytes() {
        let (a, b) = (file(b"same"), file(b"same"));
        assert!(compare(raw(&a), raw(&b)).unwrap());
        assert!(!compare(raw(&a), raw(&file(b"sane"))).unwrap());
        assert!(!compare(raw(&a), raw(&file(b"sam"))).unwrap());
        assert!(compare(raw(&file(b"")), raw(&file(b""))).unwrap());
    }
}

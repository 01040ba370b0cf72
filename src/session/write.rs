//! Writing: an append is one frame and its commit trailer in one write.
//!
//! What `write()` returned for is in the store file, so a kill loses nothing; what failed is cut off
//! again, so the file is as it was. Every write that is no append makes the session raw first.

use super::{Body, Known, Locked, Session, Stamp, State, Where};
use crate::frames::{Ends, TRAILER, Trailer};
use crate::names::{Form, Place};
use crate::sys::{self, errno};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

impl Session {
    /// Writes `data`; returns how much of it. With `append` it goes to the end of the file as it is
    /// now, whatever `offset` says. `write_back` marks pages the kernel writes from a mapping.
    pub fn write(
        &self,
        at: Where,
        offset: u64,
        data: &[u8],
        append: bool,
        write_back: bool,
    ) -> io::Result<u32> {
        let mut st = self.state()?;
        let place = at();
        let file = self.lock_current(&mut st, place.as_ref())?;
        if file.body.form == Form::Packed {
            let end = self.known(&mut st, &file.body, &file.stat)?.ends.logical;
            if !write_back && (append || offset == end) {
                return self.append(&mut st, place.as_ref(), &file, data);
            }
            drop(file);
            self.to_raw_locked(&mut st, place.as_ref())?;
            drop(st);
            return self.write(at, offset, data, append, write_back);
        }
        let from = if append { file.stat.size } else { offset };
        let mut done = 0;
        let result = loop {
            match file.body.file.write_at(&data[done..], from + done as u64) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
                Ok(0) if done < data.len() => break Err(errno(libc::EIO)),
                Ok(n) => done += n,
            }
            if done == data.len() {
                break Ok(());
            }
        };
        if !append {
            st.version += 1;
        }
        st.changed(&file.stat, &sys::fstat(&file.body.file)?, Ends::default());
        match result {
            // Like any file system: what was written counts, the error comes with the next write.
            Err(e) if done == 0 => Err(e),
            _ => Ok(done as u32),
        }
    }

    /// The write path: one frame and its trailer, in one write.
    fn append(
        &self,
        st: &mut State,
        place: Option<&Place>,
        locked: &Locked,
        data: &[u8],
    ) -> io::Result<u32> {
        if data.is_empty() {
            return Ok(0);
        }
        let (body, stat) = (&locked.body, &locked.stat);
        let known = self.known(st, body, stat)?;
        if known.torn > 0 {
            self.set_torn_aside(st, place, body, &known)?;
        }
        if known.foreign
            && let Some(place) = place.filter(|_| !st.unlinked)
        {
            self.drop_sidecar(place);
        }
        let at = known.ends.stored;
        let logical = known.ends.logical + data.len() as u64;
        let frame_len = self.shared.with_encoder(|encoder| {
            let mut record = encoder.encode(data)?.to_vec();
            let frame_len = record.len() as u32;
            let trailer = Trailer {
                logical,
                sealed_end: known.ends.sealed,
                frame_len,
            };
            record.extend(trailer.encode(at + u64::from(frame_len)));
            if let Err(e) = body.file.write_all_at(&record, at) {
                // As it was before: what was not committed must not stand there.
                if let Err(cut) = body.file.set_len(at) {
                    log::error!("cutting a failed append back: {cut}");
                }
                return Err(e);
            }
            Ok(u64::from(frame_len))
        })?;
        let ends = Ends {
            logical,
            stored: at + frame_len + TRAILER,
            sealed: known.ends.sealed,
        };
        if let Some(index) = &mut st.index {
            index.push(frame_len, data.len() as u64);
        }
        st.changed(stat, &sys::fstat(&body.file)?, ends);
        Ok(data.len() as u32)
    }

    pub(super) fn drop_sidecar(&self, place: &Place) {
        if let Ok(dir) = self.store().dir(&place.dir) {
            self.store().drop_sidecar(dir.as_fd(), &place.name);
        }
    }

    /// Moves the bytes of an append that was cut short out of the way of the next one.
    pub(super) fn set_torn_aside(
        &self,
        st: &mut State,
        place: Option<&Place>,
        body: &Body,
        known: &Known,
    ) -> io::Result<()> {
        let mut torn = vec![0; known.torn as usize];
        body.file.read_exact_at(&mut torn, known.ends.stored)?;
        if let Some(place) = place {
            self.store().recover_bytes(place, &mut torn.as_slice())?;
        }
        body.file.set_len(known.ends.stored)?;
        let stat = sys::fstat(&body.file)?;
        st.known = Some(Known {
            stamp: Stamp::of(&stat),
            torn: 0,
            ..*known
        });
        if let Some(index) = &mut st.index {
            index.torn = 0;
        }
        Ok(())
    }
}

/// Makes an empty store file a valid empty session. On a full disk it stays empty, which is one too.
pub(super) fn begin(file: &File) -> io::Result<Ends> {
    let trailer = Trailer {
        logical: 0,
        sealed_end: TRAILER,
        frame_len: 0,
    };
    if let Err(e) = file.write_all_at(&trailer.encode(0), 0) {
        log::debug!("an empty session without trailer: {e}");
        file.set_len(0)?;
        return Ok(Ends::default());
    }
    Ok(Ends {
        logical: 0,
        stored: TRAILER,
        sealed: TRAILER,
    })
}

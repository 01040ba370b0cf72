//! The format from outside in: what is written is found again, and what is broken is never taken for
//! something else.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};
use zstd::zstd_safe::{CCtx, CParameter};

/// A file without a name that holds these bytes.
fn file(bytes: &[u8]) -> File {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("cellar-frames-{}-{count}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true);
    let file = file.open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn refill(file: &File, bytes: &[u8]) {
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

fn indexed(bytes: &[u8]) -> Index {
    index(&file(bytes), bytes.len() as u64).unwrap()
}

fn read_all(file: &File, index: &Index) -> io::Result<Vec<u8>> {
    let (mut stream, mut out) = (Stream::new(file, index, 0), Vec::new());
    while stream.read(&mut out, 1000)? > 0 {}
    Ok(out)
}

fn content(bytes: &[u8]) -> Vec<u8> {
    let file = file(bytes);
    let index = index(&file, bytes.len() as u64).unwrap();
    read_all(&file, &index).unwrap()
}

fn frame(data: &[u8]) -> Vec<u8> {
    Encoder::new(LEVEL_APPEND)
        .unwrap()
        .encode(data)
        .unwrap()
        .to_vec()
}

/// A frame as other programs may write it.
fn foreign(data: &[u8], content_size: bool, checksum: bool) -> Vec<u8> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::ContentSizeFlag(content_size),
        CParameter::ChecksumFlag(checksum),
    ] {
        context.set_parameter(parameter).unwrap();
    }
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(data.len()));
    context.compress2(&mut out, data).unwrap();
    out
}

/// Adds a frame and its trailer.
fn append(bytes: &mut Vec<u8>, logical: &mut u64, sealed_end: u64, data: &[u8]) {
    let frame = frame(data);
    bytes.extend(&frame);
    *logical += data.len() as u64;
    let trailer = Trailer {
        logical: *logical,
        sealed_end,
        frame_len: frame.len() as u32,
    };
    bytes.extend(trailer.encode(bytes.len() as u64));
}

fn lines(count: usize) -> Vec<Vec<u8>> {
    let line = |n| {
        format!(
            "{{\"line\":{n},\"text\":\"{}\"}}\n",
            "abc ".repeat(n % 7 * 5)
        )
    };
    (0..count).map(|n| line(n).into_bytes()).collect()
}

/// A session of appended frames.
fn chain(lines: &[Vec<u8>]) -> Vec<u8> {
    let (mut bytes, mut logical) = (Vec::new(), 0);
    for line in lines {
        append(&mut bytes, &mut logical, 0, line);
    }
    bytes
}

/// A session of several sealed frames with their table.
fn sealed(lines: &[Vec<u8>]) -> Vec<u8> {
    let (mut bytes, mut frames, mut start) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let (at, size, stored) = (bytes.len() as u64, line.len() as u64, frame(line));
        let len = stored.len() as u64;
        frames.push(Frame {
            at,
            len,
            start,
            size,
        });
        bytes.extend(stored);
        start += size;
    }
    bytes.extend(encode_seek_table(&frames).unwrap());
    bytes
}

/// Sealed frames, and appended ones after them.
fn grown(lines: &[Vec<u8>]) -> Vec<u8> {
    let (old, new) = lines.split_at(lines.len() / 2);
    let (mut bytes, mut logical) = (sealed(old), old.concat().len() as u64);
    let sealed_end = bytes.len() as u64;
    for line in new {
        append(&mut bytes, &mut logical, sealed_end, line);
    }
    bytes
}

/// A session sealed in one frame, closed by a trailer.
fn closed(data: &[u8]) -> Vec<u8> {
    let mut bytes = frame(data);
    let sealed_end = bytes.len() as u64 + TRAILER;
    bytes.clear();
    append(&mut bytes, &mut 0, sealed_end, data);
    bytes
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn the_check_is_the_common_crc_32() {
    assert_eq!(crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
}

#[test]
fn a_trailer_is_believed_only_whole_and_in_its_place() {
    let trailer = Trailer {
        logical: 1 << 40,
        sealed_end: 77,
        frame_len: 1000,
    };
    let bytes = trailer.encode(4096);
    assert_eq!(Trailer::decode(&bytes, 4096), Some(trailer));
    assert_eq!(Trailer::decode(&bytes, 4097), None);
    assert_eq!(Trailer::decode(&bytes[..31], 4096), None);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Trailer::decode(&flipped, 4096), None, "bit {bit}");
    }
    // A frame cannot be longer than what is before, nor the sealed part than the file.
    assert_eq!(Trailer::decode(&trailer.encode(999), 999), None);
    let ahead = Trailer {
        sealed_end: 4096 + TRAILER + 1,
        ..trailer
    };
    assert_eq!(Trailer::decode(&ahead.encode(4096), 4096), None);
}

#[test]
fn every_way_of_writing_reads_back() {
    let lines = lines(40);
    let all = lines.concat();
    for (what, bytes, foreign) in [
        ("chain", chain(&lines), false),
        ("sealed", sealed(&lines), false),
        ("grown", grown(&lines), false),
        ("closed", closed(&all), false),
        ("one frame of 0.3.0", frame(&all), true),
    ] {
        let index = indexed(&bytes);
        assert_eq!(content(&bytes), all, "{what}");
        assert_eq!(index.foreign, foreign, "{what}");
        assert_eq!((index.torn, index.lost_at), (0, None), "{what}");
        assert_eq!(index.ends.stored, bytes.len() as u64, "{what}");
        let ends = ends(&file(&bytes), bytes.len() as u64).unwrap();
        assert_eq!(ends, (!foreign).then_some(index.ends), "{what}");
    }
    assert!(indexed(&sealed(&lines)).ends.is_sealed());
    assert!(indexed(&closed(&all)).ends.is_sealed());
    assert!(!indexed(&grown(&lines)).ends.is_sealed());
    assert_eq!(content(b""), b"");
}

#[test]
fn foreign_frames_are_read_as_they_are() {
    let parts = [b"one\n".repeat(50), Vec::new(), b"three\n".repeat(500)];
    let skippable = [
        &0x184D_2A50u32.to_le_bytes()[..],
        &3u32.to_le_bytes(),
        b"xyz",
    ]
    .concat();
    for (size, checksum) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut bytes = skippable.clone();
        for part in &parts {
            bytes.extend(foreign(part, size, checksum));
            bytes.extend(&skippable);
        }
        let index = indexed(&bytes);
        assert_eq!(content(&bytes), parts.concat());
        assert!(index.foreign);
        assert_eq!(index.unsized_frames, !size);
        assert_eq!((index.torn, index.lost_at), (0, None));
    }
}

#[test]
fn headers_tell_what_a_foreign_file_holds_unless_one_does_not() {
    let told = |bytes: &[u8]| sizes(&file(bytes), bytes.len() as u64).unwrap();
    let (one, two) = (
        foreign(&[b'a'; 300_000], true, true),
        foreign(b"bb", true, false),
    );
    let whole = [&one[..], &two].concat();
    assert_eq!(
        told(&whole),
        Some(FrameSizes {
            logical: 300_002,
            frames: 2
        })
    );
    // Nothing is decoded, so a broken checksum makes no difference.
    let mut broken = one.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(told(&broken).unwrap().logical, 300_000);
    assert_eq!(told(&whole[..whole.len() - 1]), None);
    assert_eq!(
        told(&[&one[..], &foreign(b"c", false, true)].concat()),
        None
    );
    assert_eq!(told(b"no zstd"), None);
}

#[test]
fn appends_go_on_after_a_foreign_file() {
    let (old, new) = (b"old\n".repeat(100), lines(5));
    let mut bytes = foreign(&old, false, true);
    let mut logical = old.len() as u64;
    for line in &new {
        append(&mut bytes, &mut logical, 0, line);
    }
    assert_eq!(content(&bytes), [old, new.concat()].concat());
    assert_eq!(indexed(&bytes).ends.logical, logical);
}

#[test]
fn a_torn_record_of_any_length_leaves_what_is_before() {
    let lines = lines(6);
    let (before, all) = (lines[..5].concat(), lines.concat());
    for bytes in [chain(&lines), grown(&lines)] {
        let whole = frame(&lines[5]).len();
        let start = bytes.len() - whole - TRAILER as usize;
        for kept in 1..whole + TRAILER as usize {
            let bytes = &bytes[..start + kept];
            let index = indexed(bytes);
            // A whole frame counts even if its trailer is missing.
            let (logical, stored) = match kept >= whole {
                true => (all.len(), start + whole),
                false => (before.len(), start),
            };
            assert_eq!(index.ends.logical, logical as u64, "{kept}");
            assert_eq!(index.ends.stored, stored as u64, "{kept}");
            assert_eq!(index.torn, (bytes.len() - stored) as u64, "{kept}");
            assert_eq!(index.lost_at, None, "{kept}");
            assert_eq!(content(bytes), all[..logical], "{kept}");
        }
    }
}

#[test]
fn zeros_after_the_last_record_are_torn() {
    let lines = lines(6);
    let mut bytes = chain(&lines);
    let stored = bytes.len() as u64;
    bytes.extend([0; 5000]);
    let index = indexed(&bytes);
    assert_eq!((index.ends.stored, index.torn), (stored, 5000));
    assert_eq!(content(&bytes), lines.concat());
}

#[test]
fn a_whole_frame_that_does_not_decode_is_torn_not_read() {
    let lines = lines(6);
    let mut bytes = chain(&lines[..5]);
    let stored = bytes.len() as u64;
    let mut last = frame(&lines[5]);
    let end = last.len();
    last[end - 1] ^= 1;
    bytes.extend(last);
    let index = indexed(&bytes);
    assert_eq!((index.ends.stored, index.torn), (stored, end as u64));
    assert_eq!(content(&bytes), lines[..5].concat());
}

#[test]
fn a_damaged_trailer_inside_loses_nothing() {
    let lines = lines(20);
    let bytes = chain(&lines);
    for frame in &indexed(&bytes).frames[..19] {
        for byte in 0..TRAILER {
            let mut bytes = bytes.clone();
            bytes[(frame.at + frame.len + byte) as usize] ^= 0x10;
            assert_eq!(content(&bytes), lines.concat(), "{frame:?} {byte}");
        }
    }
}

#[test]
fn a_lost_frame_leaves_a_gap_and_the_rest_in_its_place() {
    let lines = lines(20);
    let all = lines.concat();
    let bytes = chain(&lines);
    let gone = indexed(&bytes).frames[7];
    // The frame and its trailer, so that the chain is cut too.
    let mut bytes = bytes;
    bytes[gone.at as usize..(gone.at + gone.len + TRAILER) as usize].fill(0xee);
    let file = file(&bytes);
    let index = index(&file, bytes.len() as u64).unwrap();
    assert_eq!(index.lost_at, Some(gone.at));
    assert_eq!(index.ends.logical, all.len() as u64);
    assert_eq!(index.frames.len(), 19);
    assert!(index.covering(gone.start, gone.end()).is_empty());
    assert!(read_all(&file, &index).is_err());
    let after = &index.frames[7];
    assert_eq!(after.start, gone.end());
    let (mut stream, mut out) = (Stream::new(&file, &index, after.start), Vec::new());
    stream.read(&mut out, all.len()).unwrap();
    assert_eq!(out, all[after.start as usize..]);
}

#[test]
fn a_seek_table_with_a_wrong_size_is_not_believed() {
    let lines = lines(8);
    let bytes = sealed(&lines);
    let first_size = bytes.len() - TABLE_FOOTER as usize - 8 * 8 + 4;
    let mut wrong = bytes.clone();
    wrong[first_size] ^= 1;
    assert_eq!(content(&wrong), lines.concat());
    assert!(indexed(&wrong).foreign);
    let mut wrong = grown(&lines);
    let table = sealed(&lines[..4]).len();
    wrong[table - TABLE_FOOTER as usize - 4 * 8 + 4] ^= 1;
    assert_eq!(content(&wrong), lines.concat());
}

#[test]
fn a_seek_table_of_impossible_sizes_is_refused() {
    let frame = Frame {
        at: 0,
        len: 1 << 32,
        start: 0,
        size: 1,
    };
    assert!(encode_seek_table(&[frame]).is_err());
    assert!(
        encode_seek_table(&[Frame {
            len: 1,
            size: 1 << 32,
            ..frame
        }])
        .is_err()
    );
}

#[test]
fn covering_is_exact() {
    let frame = |start, size| Frame {
        at: 0,
        len: 1,
        start,
        size,
    };
    let index = Index {
        frames: vec![frame(0, 10), frame(10, 5), frame(20, 10)],
        ..Index::default()
    };
    let starts = |from, to| -> Vec<u64> {
        let covering = index.covering(from, to).iter();
        covering.map(|frame| frame.start).collect()
    };
    assert_eq!(starts(0, 1), [0]);
    assert_eq!(starts(9, 11), [0, 10]);
    assert_eq!(starts(10, 15), [10]);
    assert!(starts(15, 20).is_empty());
    assert_eq!(starts(14, 21), [10, 20]);
    assert_eq!(starts(29, 99), [20]);
    assert!(starts(30, 99).is_empty());
}

#[test]
fn pushed_frames_are_what_an_index_finds() {
    let lines = lines(9);
    let mut index = indexed(&chain(&lines[..8]));
    index.push(frame(&lines[8]).len() as u64, lines[8].len() as u64);
    let found = indexed(&chain(&lines));
    assert_eq!((index.frames, index.ends), (found.frames, found.ends));
}

#[test]
fn no_more_is_decoded_than_asked() {
    let data = b"0123456789".repeat(100_000);
    let stored = frame(&data);
    let file = file(&stored);
    let frame = indexed(&stored).frames[0];
    let mut decoder = Decoder::new(&frame).unwrap();
    let mut out = Vec::new();
    assert_eq!(decoder.read(&file, &mut out, 7).unwrap(), 7);
    assert_eq!(out, b"0123456");
    decoder.restart(&frame).unwrap();
    out.clear();
    while decoder.read(&file, &mut out, 99_999).unwrap() > 0 {}
    assert_eq!(out, data);
}

#[test]
fn a_frame_checked_must_fill_its_place() {
    let data = b"data\n".repeat(100);
    let stored = frame(&data);
    let index = indexed(&stored);
    let file = file(&[&stored[..], b"more"].concat());
    let mut checker = Checker::default();
    let whole = index.frames[0];
    assert!(checker.verify(&file, &whole).is_ok());
    for (len, size) in [(4, 0), (-1, 0), (0, 1), (0, -1)] {
        let wrong = Frame {
            len: whole.len.wrapping_add_signed(len),
            size: whole.size.wrapping_add_signed(size),
            ..whole
        };
        assert!(checker.verify(&file, &wrong).is_err(), "{len} {size}");
    }
    assert!(checker.verify(&file, &whole).is_ok());
}

#[test]
fn damage_tells_its_place() {
    let error = damaged(42, "frame");
    assert_eq!(error.to_string(), "damaged at offset 42: frame");
    let damage = error.get_ref().and_then(|e| e.downcast_ref::<Damage>());
    assert_eq!(damage.map(|d| d.at), Some(42));
}

/// Breaks a store file in a way that happens: a bit, a byte, a run of zeros or junk, a hole.
fn broken(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = random.below(bytes.len());
    let to = (at + 1 + random.below(64)).min(bytes.len());
    match random.below(5) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.below(256) as u8,
        3 => bytes[at..to].fill(0),
        _ => {
            for byte in &mut bytes[at..to] {
                *byte = random.below(256) as u8;
            }
        }
    }
    bytes
}

#[test]
fn whatever_breaks_no_wrong_byte_is_given_out() {
    let lines = lines(12);
    let all = lines.concat();
    let whole = [chain(&lines), sealed(&lines), grown(&lines), closed(&all)];
    let mut decoder = Decoder::new(&indexed(&whole[3]).frames[0]).unwrap();
    let file = file(b"");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for round in 0..3000 {
        let bytes = broken(&whole[round % whole.len()], &mut random);
        refill(&file, &bytes);
        let Ok(index) = index(&file, bytes.len() as u64) else {
            continue;
        };
        // Junk may by chance be a frame without a checksum, which nobody can tell from a foreign one.
        let checked = |frame: &Frame| header(&file, frame.at).unwrap().is_some_and(|h| h.checksum);
        if !index.frames.iter().all(checked) {
            continue;
        }
        // Each frame is given out alone, so each must be right where the index puts it.
        for frame in &index.frames {
            let mut out = Vec::new();
            decoder.restart(frame).unwrap();
            let mut read = || -> io::Result<bool> {
                while decoder.read(&file, &mut out, 512)? > 0 {}
                Ok(out.len() as u64 == frame.size)
            };
            if read().unwrap_or(false) {
                let expected = all.get(frame.start as usize..frame.end() as usize);
                assert_eq!(Some(&out[..]), expected, "round {round}: {frame:?}");
            }
        }
        if let Ok(read) = read_all(&file, &index) {
            let silent = index.torn == 0 && index.lost_at.is_none();
            assert!(all.starts_with(&read), "round {round}");
            assert!(!silent || read == all, "round {round}: silently shorter");
        }
    }
}

#[test]
fn broken_foreign_files_are_noticed() {
    let parts: Vec<Vec<u8>> = (0..6).map(|n| vec![b'a' + n; 3000]).collect();
    let all = parts.concat();
    let file = file(b"");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for checksum in [true, false] {
        let whole = [false, true].map(|sized| {
            let frames = parts.iter().map(|part| foreign(part, sized, checksum));
            frames.collect::<Vec<_>>().concat()
        });
        for round in 0..300 {
            let sized = round % 2 == 0;
            let whole = &whole[usize::from(sized)];
            let bytes = broken(whole, &mut random);
            refill(&file, &bytes);
            let Ok(index) = index(&file, bytes.len() as u64) else {
                continue;
            };
            let read = read_all(&file, &index);
            // Without checksums nobody can tell; it must only not panic.
            if checksum && index.torn == 0 && index.lost_at.is_none() && bytes != *whole {
                assert!(
                    read.is_err() || read.is_ok_and(|r| r == all),
                    "round {round}"
                );
            }
        }
    }
}

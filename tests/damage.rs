//! Promise 6: bad input gets a clear error and loses nothing. A torn end costs what was torn and is kept aside; a
//! flipped bit costs its frame and nothing else; `verify` names every damaged file and goes on.

mod common;

use common::frames::frames;
use common::{Mount, assert_same, leftovers, line, rng::Rng, sys, zstd_dc};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

const APPEND: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
const PIECE: usize = 100_000;

/// A mount with `p/<name>.jsonl` written as `count` appends of 100 kB, then stopped; nothing where there is no store.
fn stopped(name: &str, count: usize) -> Option<(Mount, Vec<Vec<u8>>)> {
    let mut mount = Mount::start_unsealing(name);
    fs::create_dir(mount.path("p")).unwrap();
    let pieces: Vec<Vec<u8>> = (0..count).map(|number| line("d", number, PIECE)).collect();
    for piece in &pieces {
        append(&mount, "p/s.jsonl", piece).unwrap();
    }
    mount.sigterm();
    mount.has_store().then_some((mount, pieces))
}

fn append(mount: &Mount, name: &str, data: &[u8]) -> std::io::Result<i64> {
    sys::write(&sys::open(&mount.path(name), APPEND, 0o600)?, data)
}

fn recovered(mount: &Mount) -> Vec<Vec<u8>> {
    let directory = mount.store(".cellar/recovered");
    leftovers(mount, "recovered")
        .iter()
        .map(|file| fs::read(directory.join(file)).unwrap())
        .collect()
}

/// `verify` with its exit code and all it says.
fn verify(mount: &Mount) -> (Option<i32>, String) {
    let output = mount.run(&["verify"]);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_torn_last_write_costs_itself_alone_and_is_kept() {
    for torn in [1, 5, 31, 33, 60, 5_000] {
        let Some((mut mount, pieces)) = stopped("torn", 5) else {
            return;
        };
        let file = mount.store("p/s.jsonl.zst");
        let packed = fs::read(&file).unwrap();
        fs::write(&file, &packed[..packed.len() - torn]).unwrap();
        mount.mount();
        let (whole, all) = (pieces[..4].concat(), pieces.concat());
        let found = fs::read(mount.path("p/s.jsonl")).unwrap();
        if found != all || torn > 32 {
            assert_same(
                &found,
                &whole,
                &format!("the whole writes, {torn} bytes torn off"),
            );
        }
        assert_eq!(
            fs::metadata(mount.path("p/s.jsonl")).unwrap().len(),
            found.len() as u64
        );
        assert!(recovered(&mount).is_empty(), "reading moves nothing");
        assert_eq!(
            fs::metadata(&file).unwrap().len() as usize,
            packed.len() - torn,
            "reading changes nothing"
        );

        append(&mount, "p/s.jsonl", b"next\n").unwrap();
        let want = [found.as_slice(), b"next\n"].concat();
        assert_same(
            &fs::read(mount.path("p/s.jsonl")).unwrap(),
            &want,
            "it goes on",
        );
        assert_same(&zstd_dc(&file), &want, "as ordinary zstd");
        let kept = recovered(&mount);
        assert!(
            kept.len() == 1 && !kept[0].is_empty(),
            "the torn bytes are kept: {} files",
            kept.len()
        );
        assert!(
            packed[..packed.len() - torn].ends_with(&kept[0]),
            "and they are the torn bytes"
        );
        assert!(
            String::from_utf8_lossy(&mount.run(&["status"]).stdout).contains("recovered"),
            "status tells"
        );
        assert!(verify(&mount).1.contains("recovered"), "verify tells");
        mount.seal_and_wait();
        mount.remount();
        assert_same(&fs::read(mount.path("p/s.jsonl")).unwrap(), &want, "sealed");
    }
}

#[test]
fn garbage_at_the_end_is_set_aside_by_the_next_write() {
    for garbage in [
        vec![0; 4_096],
        Rng::new(5).bytes(100),
        b"\x28\xB5\x2F\xFD".to_vec(),
        b"x".to_vec(),
    ] {
        let Some((mut mount, pieces)) = stopped("garbage", 3) else {
            return;
        };
        let file = mount.store("p/s.jsonl.zst");
        let packed = fs::read(&file).unwrap();
        fs::write(&file, [packed.as_slice(), &garbage].concat()).unwrap();
        mount.mount();
        assert_same(
            &fs::read(mount.path("p/s.jsonl")).unwrap(),
            &pieces.concat(),
            "before the garbage",
        );
        append(&mount, "p/s.jsonl", b"next\n").unwrap();
        let want = [pieces.concat().as_slice(), b"next\n"].concat();
        assert_same(
            &fs::read(mount.path("p/s.jsonl")).unwrap(),
            &want,
            "after the next write",
        );
        assert_same(&zstd_dc(&file), &want, "as ordinary zstd");
        assert_eq!(recovered(&mount), [garbage], "kept aside");
        assert_eq!(verify(&mount).0, Some(0), "the store is sound again");
    }
}

/// Flip one bit in the middle of the frame that holds `contents[damaged]`; the range of the file's bytes lost.
fn flip(
    file: &Path,
    contents: &[u8],
    at: usize,
) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let mut packed = fs::read(file).unwrap();
    let mut decoded = 0;
    for frame in frames(&packed).into_iter().filter(|frame| frame.content) {
        let part = &packed[frame.at..frame.at + frame.length];
        let length = zstd_content_length(part);
        if decoded + length > at {
            packed[frame.at + frame.length / 2] ^= 0x10;
            fs::write(file, packed).unwrap();
            return (decoded..decoded + length, frame.at..frame.at + frame.length);
        }
        decoded += length;
    }
    panic!("{} bytes, none at {at}", contents.len());
}

fn zstd_content_length(frame: &[u8]) -> usize {
    common::zstd(&["-d"], frame).len()
}

/// Everything but the lost range reads; in the lost range is EIO. Page borders are left out: pages are read whole.
fn check_only_lost(path: &Path, want: &[u8], lost: &std::ops::Range<usize>, what: &str) {
    const MARGIN: usize = 16_384;
    let file = fs::File::open(path).unwrap();
    assert_eq!(
        file.metadata().unwrap().len(),
        want.len() as u64,
        "the size is known, {what}"
    );
    for at in (0..want.len() - 4_096).step_by(20_480) {
        let mut piece = vec![0; 4_096];
        let read = file.read_exact_at(&mut piece, at as u64);
        if at + piece.len() + MARGIN <= lost.start || at >= lost.end + MARGIN {
            read.unwrap_or_else(|e| panic!("{what}: {at} is outside {lost:?}: {e}"));
            assert_same(&piece, &want[at..at + 4_096], what);
        } else if at >= lost.start && at + piece.len() <= lost.end {
            assert_eq!(sys::errno(&read), libc::EIO, "{what}: {at} is lost");
        }
    }
    assert_eq!(
        sys::errno(&fs::read(path)),
        libc::EIO,
        "{what}: a read of everything must not look whole"
    );
}

fn check_flipped(mut mount: Mount, want: &[u8], at: usize, what: &str) {
    let file = mount.store("p/s.jsonl.zst");
    let (lost, place) = flip(&file, want, at);
    let damaged = fs::read(&file).unwrap();
    mount.mount();
    let path = mount.path("p/s.jsonl");
    check_only_lost(&path, want, &lost, what);
    assert!(mount.log().contains("s.jsonl"), "the log names the file");
    // Nothing that would need the lost bytes pretends to work, and nothing loses the rest.
    assert_eq!(
        sys::errno(&sys::link(&path, &mount.path("p/l.jsonl"))),
        libc::EIO,
        "{what}: link"
    );
    assert_eq!(
        sys::errno(&sys::rename(&path, &mount.path("p/s.bak"), 0)),
        libc::EIO,
        "{what}: rename to another kind"
    );
    let fd = sys::open(&path, libc::O_RDWR, 0).unwrap();
    assert_eq!(
        sys::errno(&sys::pwrite(&fd, b"x", 0)),
        libc::EIO,
        "{what}: overwrite"
    );
    mount.seal();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert_eq!(
        fs::read(&file).unwrap(),
        damaged,
        "{what}: the file is left alone"
    );
    check_only_lost(&path, want, &lost, what);

    fs::write(mount.path("p/a-sound.jsonl"), "sound\n").unwrap();
    fs::copy(&file, mount.store("p/z-other.jsonl.zst")).unwrap();
    for running in [true, false] {
        let (code, text) = verify(&mount);
        assert_eq!(code, Some(1), "{what}: {text}");
        assert!(
            text.contains("s.jsonl") && text.contains("z-other.jsonl"),
            "{what}: every damaged file: {text}"
        );
        assert!(
            !text.contains("a-sound.jsonl: "),
            "{what}: a sound file is not accused: {text}"
        );
        let numbers = text
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse::<usize>().ok());
        let mut numbers = numbers.filter(|n| place.contains(n) || lost.contains(n));
        assert!(
            numbers.next().is_some(),
            "{what}: the offset, one of {place:?} or {lost:?}: {text}"
        );
        if running {
            mount.sigterm();
        }
    }
}

#[test]
fn a_flipped_bit_in_an_unsealed_session_costs_its_write_alone() {
    let Some((mount, pieces)) = stopped("flip-tail", 12) else {
        return;
    };
    check_flipped(mount, &pieces.concat(), PIECE * 6, "unsealed");
}

#[test]
fn a_flipped_bit_in_a_sealed_session_costs_its_frame_alone() {
    let mut mount = Mount::start_unsealing("flip-sealed");
    fs::create_dir(mount.path("p")).unwrap();
    let want: Vec<u8> = (0..26_000)
        .flat_map(|number| line("d", number % 40, 1_000))
        .collect();
    fs::write(mount.path("p/s.jsonl"), &want).unwrap();
    mount.seal_and_wait();
    mount.sigterm();
    if mount.has_store() {
        let packed = fs::read(mount.store("p/s.jsonl.zst")).unwrap();
        assert!(
            frames(&packed).iter().filter(|frame| frame.content).count() >= 3,
            "several frames"
        );
        check_flipped(mount, &want, 12 << 20, "sealed");
    }
}

#[test]
fn appends_to_a_damaged_session_cut_nothing() {
    let Some((mut mount, pieces)) = stopped("damaged-append", 6) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let want = pieces.concat();
    let (lost, _) = flip(&file, &want, PIECE * 2);
    let damaged = fs::read(&file).unwrap();
    mount.mount();
    let appended = append(&mount, "p/s.jsonl", b"next\n").is_ok();
    assert!(
        fs::read(&file).unwrap().starts_with(&damaged),
        "what was there is still there"
    );
    let want = if appended {
        [want.as_slice(), b"next\n"].concat()
    } else {
        want
    };
    check_only_lost(&mount.path("p/s.jsonl"), &want, &lost, "after an append");
}

#[test]
fn a_file_that_is_no_zstd_at_all_is_listed_unreadable_and_removable() {
    let mut mount = Mount::prepare("nonsense").seal_after(86_400);
    if !mount.has_store() {
        return;
    }
    fs::create_dir(mount.store("p")).unwrap();
    let nonsense = Rng::new(1).bytes(5_000);
    fs::write(mount.store("p/x.jsonl.zst"), &nonsense).unwrap();
    mount.mount();
    assert_eq!(common::entries(&mount.path("p")), [mount.path("p/x.jsonl")]);
    let read = fs::read(mount.path("p/x.jsonl"));
    assert!(
        sys::errno(&read) == libc::EIO || read.is_ok_and(|data| data.is_empty()),
        "no invented contents"
    );
    assert_eq!(verify(&mount).0, Some(1));
    assert_eq!(
        fs::read(mount.store("p/x.jsonl.zst")).unwrap(),
        nonsense,
        "looking changes nothing"
    );
    fs::remove_file(mount.path("p/x.jsonl")).unwrap();
    assert!(common::entries(&mount.path("p")).is_empty());
}

#[test]
fn a_sound_store_verifies() {
    let mount = Mount::start("sound");
    fs::create_dir(mount.path("p")).unwrap();
    for number in 0..20 {
        fs::write(
            mount.path(format!("p/{number}.jsonl")),
            line("s", number, number * 500),
        )
        .unwrap();
    }
    if mount.has_store() {
        assert_eq!(
            verify(&mount).0,
            Some(0),
            "while they wait: {}",
            verify(&mount).1
        );
        mount.seal_and_wait();
        assert_eq!(verify(&mount).0, Some(0), "sealed: {}", verify(&mount).1);
    }
}

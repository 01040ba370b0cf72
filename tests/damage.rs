//! Promise 6: bad input gets a clear error and loses nothing. A torn end costs what was torn and is kept aside; a
//! flipped bit costs its frame and nothing else.

mod common;

use claude_cellar::names::Place;
use claude_cellar::session::Session;
use claude_cellar::shared::Shared;
use claude_cellar::store::Store;
use common::damage::{PIECE, append, flip, stopped};
use common::frames::frames;
use common::{Mount, assert_same, corpus, leftovers, line, rng::Rng, sys, zstd, zstd_dc};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

fn recovered(mount: &Mount) -> Vec<Vec<u8>> {
    let directory = mount.store(".cellar/recovered");
    leftovers(mount, "recovered")
        .iter()
        .map(|file| fs::read(directory.join(file)).unwrap())
        .collect()
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
        mount.seal_and_wait();
        mount.remount();
        assert_same(&fs::read(mount.path("p/s.jsonl")).unwrap(), &want, "sealed");
    }
}

#[test]
fn a_torn_session_that_nobody_writes_to_again_is_sealed_too() {
    let Some((mut mount, pieces)) = stopped("torn-seal", 4) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let packed = fs::read(&file).unwrap();
    let torn = &packed[..packed.len() - 300];
    fs::write(&file, torn).unwrap();
    mount.mount();
    mount.seal_and_wait();
    let want = pieces[..3].concat();
    assert_same(
        &fs::read(mount.path("p/s.jsonl")).unwrap(),
        &want,
        "the whole writes",
    );
    assert_same(&zstd_dc(&file), &want, "as ordinary zstd");
    let kept = recovered(&mount);
    assert!(
        kept.len() == 1 && torn.ends_with(&kept[0]),
        "the torn bytes are kept"
    );
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
    }
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
            // What comes before the damage in its frame may be readable, but nothing may be wrong.
            match read {
                Ok(()) => assert_same(&piece, &want[at..at + 4_096], what),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}: {at}"),
            }
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
    let (lost, _) = flip(&file, at);
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
fn no_read_gives_a_wrong_byte_of_a_damaged_frame() {
    let mut mount = Mount::prepare("wrong-byte").seal_after(86_400);
    if !mount.has_store() {
        return;
    }
    fs::create_dir(mount.store("p")).unwrap();
    let want = corpus::session(&mut Rng::new(21), 3_000_000);
    let packed = zstd(&["-3", &format!("--stream-size={}", want.len())], &want);
    let places: Vec<usize> = (1..20).map(|number| packed.len() * number / 20).collect();
    for place in &places {
        let mut packed = packed.clone();
        packed[*place] ^= 0x04;
        fs::write(mount.store(format!("p/{place}.jsonl.zst")), packed).unwrap();
    }
    mount.mount();
    let mut wrong = Vec::new();
    for place in &places {
        let file = fs::File::open(mount.path(format!("p/{place}.jsonl"))).unwrap();
        for at in (0..want.len() - 65_536).step_by(150_000) {
            let mut piece = vec![0; 65_536];
            if file.read_exact_at(&mut piece, at as u64).is_ok() && piece != want[at..at + 65_536] {
                wrong.push((place, at));
            }
        }
        assert_eq!(
            sys::errno(&fs::read(mount.path(format!("p/{place}.jsonl")))),
            libc::EIO,
            "flipped at {place}"
        );
    }
    assert!(
        wrong.is_empty(),
        "wrong bytes without an error, (flipped at, read at): {wrong:?}"
    );
}

#[test]
fn appends_to_a_damaged_session_cut_nothing() {
    let Some((mut mount, pieces)) = stopped("damaged-append", 6) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let want = pieces.concat();
    let (lost, _) = flip(&file, PIECE * 2);
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
    assert_eq!(
        fs::read(mount.store("p/x.jsonl.zst")).unwrap(),
        nonsense,
        "looking changes nothing"
    );
    fs::remove_file(mount.path("p/x.jsonl")).unwrap();
    assert!(common::entries(&mount.path("p")).is_empty());
}

#[test]
fn a_lookup_that_a_write_overtakes_costs_nothing() {
    let Some((mount, pieces)) = stopped("overtaken", 2) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let packed = fs::read(&file).unwrap();
    for garbage in [vec![b'x'], vec![b'x'; 4_096]] {
        fs::write(&file, [packed.as_slice(), &garbage].concat()).unwrap();
        let store = Store::open(&mount.store(""), false, false).unwrap();
        let shared = Arc::new(Shared::new(store));
        let session = Session::new(shared.clone());
        let place = Place {
            dir: "p".into(),
            name: "s.jsonl".into(),
        };
        let at = || Some(place.clone());
        let dir = shared.store.dir(&place.dir).unwrap();
        // What a lookup has found when it comes to wait for the write.
        let found = shared.store.find(dir.as_fd(), &place.name).unwrap();
        let mut want = pieces.concat();
        session.open(&at, true, false).unwrap();
        for line in [b"one\n", b"two\n"] {
            assert_eq!(session.write(&at, 0, line, true, false).unwrap(), 4);
            want.extend(line);
            let stat = session.attributes(dir.as_fd(), &place, found).unwrap();
            assert_same(&zstd_dc(&file), &want, "what was acknowledged");
            assert_eq!(stat.size, want.len() as u64, "the size");
        }
    }
}

//! `verify --repair` gives back all that decodes, moves what it replaces aside, and can be killed at any instant.

mod common;

use claude_cellar::frames::Trailer;
use common::damage::{PIECE, append, flip, stopped};
use common::frames::frames;
use common::{Mount, assert_same, corpus, leftovers, line, rng::Rng, sys, tree, zstd, zstd_dc};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

fn told(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[track_caller]
fn repair(mount: &Mount, code: i32) -> String {
    let (found, text) = told(&mount.run(&["verify", "--repair"]));
    assert_eq!(found, Some(code), "{text}");
    text
}

#[track_caller]
fn verify_is_clean(mount: &Mount) {
    let (code, text) = told(&mount.run(&["verify"]));
    assert_eq!(code, Some(0), "{text}");
}

fn recovered(mount: &Mount) -> Vec<Vec<u8>> {
    let directory = mount.store(".cellar/recovered");
    leftovers(mount, "recovered")
        .iter()
        .map(|file| fs::read(directory.join(file)).unwrap())
        .collect()
}

/// Every file of the store with its bytes and attributes, but for what is the cellar's own.
fn contents(mount: &Mount) -> BTreeMap<PathBuf, (Vec<u8>, u64, i64, i64)> {
    let of = |path: PathBuf| {
        let file = mount.store(&path);
        let meta = fs::symlink_metadata(&file).unwrap();
        let seen = (
            fs::read(&file).unwrap(),
            meta.ino(),
            meta.mtime(),
            meta.ctime_nsec(),
        );
        (path, seen)
    };
    let files = tree(&mount.store("")).into_iter();
    let files =
        files.filter(|path| !path.starts_with(".cellar/lock") && mount.store(path).is_file());
    files.map(of).collect()
}

#[test]
fn a_damaged_frame_is_left_out_and_the_whole_file_kept() {
    let Some((mut mount, pieces)) = stopped("repair-middle", 6) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let (lost, _) = flip(&file, PIECE * 2);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    sys::setxattr(&file, "user.note", b"mine", 0).unwrap();
    sys::set_mtime(&file, 1_700_000_000, 123_456_789).unwrap();
    let damaged = fs::read(&file).unwrap();

    let before = contents(&mount);
    let (code, text) = told(&mount.run(&["verify"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(contents(&mount) == before, "verify alone changes nothing");

    let text = repair(&mount, 0);
    let all = pieces.concat();
    let want = [&all[..lost.start], &all[lost.end..]].concat();
    assert_same(&zstd_dc(&file), &want, "what decodes");
    assert!(
        recovered(&mount) == [damaged],
        "the old file is kept, whole"
    );
    let kept = &leftovers(&mount, "recovered")[0];
    for part in [
        "p/s.jsonl.zst: rebuilt",
        &format!("{} bytes", want.len()),
        &format!("at least {} are lost", lost.len()),
        kept.to_str().unwrap(),
        "sound, 1 repaired",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()),
        (0o640, 1_700_000_000, 123_456_789)
    );
    assert_eq!(sys::getxattr(&file, "user.note").unwrap(), b"mine");
    verify_is_clean(&mount);
    assert!(leftovers(&mount, "tmp").is_empty());

    mount.mount();
    assert_same(
        &fs::read(mount.path("p/s.jsonl")).unwrap(),
        &want,
        "through the mount",
    );
    append(&mount, "p/s.jsonl", b"next\n").unwrap();
    mount.seal_and_wait();
    assert_same(
        &zstd_dc(&file),
        &[&want[..], b"next\n"].concat(),
        "it goes on",
    );
}

#[test]
fn a_damaged_frame_of_a_sealed_session_is_left_out() {
    let mut mount = Mount::start_unsealing("repair-sealed");
    if !mount.has_store() {
        return;
    }
    fs::create_dir(mount.path("p")).unwrap();
    let all: Vec<u8> = (0..26_000).flat_map(|n| line("d", n % 40, 1_000)).collect();
    fs::write(mount.path("p/s.jsonl"), &all).unwrap();
    mount.seal_and_wait();
    append(&mount, "p/s.jsonl", b"appended\n").unwrap();
    mount.sigterm();
    let file = mount.store("p/s.jsonl.zst");
    let (lost, _) = flip(&file, 12 << 20);
    repair(&mount, 0);
    let want = [&all[..lost.start], &all[lost.end..], b"appended\n"].concat();
    assert_same(&zstd_dc(&file), &want, "what decodes");
    verify_is_clean(&mount);
    mount.mount();
    assert_same(
        &fs::read(mount.path("p/s.jsonl")).unwrap(),
        &want,
        "through the mount",
    );
}

#[test]
fn a_torn_append_is_set_aside() {
    let Some((mount, pieces)) = stopped("repair-torn", 4) else {
        return;
    };
    let file = mount.store("p/s.jsonl.zst");
    let packed = fs::read(&file).unwrap();
    let torn = &packed[..packed.len() - 500];
    fs::write(&file, torn).unwrap();
    sys::set_mtime(&file, 1_700_000_000, 5).unwrap();
    let text = repair(&mount, 0);
    assert!(text.contains("was set aside; kept as "), "{text}");
    assert_same(&zstd_dc(&file), &pieces[..3].concat(), "the whole appends");
    let kept = recovered(&mount);
    assert!(
        kept.len() == 1 && torn.ends_with(&kept[0]),
        "the torn bytes alone"
    );
    assert_eq!(fs::metadata(&file).unwrap().mtime(), 1_700_000_000);
    verify_is_clean(&mount);
}

/// A store with one session sealed in several frames.
fn sealed(name: &str) -> Option<(Mount, PathBuf, Vec<u8>)> {
    let mount = Mount::prepare(name).seal_after(86_400);
    fs::create_dir(mount.store("p")).unwrap();
    let parts: Vec<Vec<u8>> = (0..5).map(|n| line("t", n, 50_000)).collect();
    let frames: Vec<Vec<u8>> = parts
        .iter()
        .map(|part| zstd(&[&format!("--stream-size={}", part.len())], part))
        .collect();
    let sizes: Vec<_> = frames
        .iter()
        .zip(&parts)
        .map(|(f, p)| (f.len(), p.len()))
        .collect();
    let file = mount.store("p/s.jsonl.zst");
    let table = common::frames::seek_table(&sizes);
    fs::write(&file, [frames.concat(), table].concat()).unwrap();
    mount.has_store().then_some((mount, file, parts.concat()))
}

#[test]
fn a_wrong_or_torn_seek_table_is_built_anew() {
    let Some((mount, file, all)) = sealed("repair-table") else {
        return;
    };
    let whole = fs::read(&file).unwrap();
    verify_is_clean(&mount);
    let size = whole.len();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        flipped(size - 1),
        flipped(size - 13),
        whole[..size - 6].to_vec(),
    ];
    for (round, damaged) in cases.into_iter().enumerate() {
        fs::write(&file, &damaged).unwrap();
        let text = repair(&mount, 0);
        assert!(
            text.contains(&format!("with all its {} bytes", all.len())),
            "{text}"
        );
        assert_eq!(fs::read(&file).unwrap(), whole, "as it was sealed, {round}");
        assert!(recovered(&mount).contains(&damaged), "{round}");
    }
}

#[test]
fn of_two_forms_the_raw_one_stays() {
    let Some((mount, file, all)) = sealed("repair-forms") else {
        return;
    };
    let packed = fs::read(&file).unwrap();
    let raw = mount.store("p/s.jsonl");
    fs::write(&raw, &all[1..]).unwrap();
    repair(&mount, 0);
    assert_same(&fs::read(&raw).unwrap(), &all[1..], "the raw one");
    assert!(!file.exists());
    assert!(recovered(&mount) == [packed]);
    verify_is_clean(&mount);
}

#[test]
fn an_empty_store_file_becomes_an_empty_session() {
    let mut mount = Mount::prepare("repair-empty").seal_after(86_400);
    fs::create_dir(mount.store("p")).unwrap();
    let file = mount.store("p/s.jsonl.zst");
    fs::write(&file, b"").unwrap();
    sys::set_mtime(&file, 1_700_000_000, 5).unwrap();
    repair(&mount, 0);
    assert_eq!(zstd_dc(&file), b"");
    assert_eq!(fs::metadata(&file).unwrap().mtime(), 1_700_000_000);
    assert!(recovered(&mount).is_empty(), "there was nothing to keep");
    if mount.has_store() {
        mount.mount();
        assert_eq!(fs::read(mount.path("p/s.jsonl")).unwrap(), b"");
    }
}

#[test]
fn a_wrong_note_of_the_size_is_corrected() {
    let Some((mount, file, all)) = sealed("repair-hint") else {
        return;
    };
    let size = fs::metadata(&file).unwrap().len();
    let wrong = [7, size, size].map(u64::to_le_bytes).concat();
    sys::setxattr(&file, "user.cellar", &wrong, 0).unwrap();
    let ino = fs::metadata(&file).unwrap().ino();
    repair(&mount, 0);
    let right = [all.len() as u64, size, size]
        .map(u64::to_le_bytes)
        .concat();
    assert_eq!(sys::getxattr(&file, "user.cellar").unwrap(), right);
    assert_eq!(fs::metadata(&file).unwrap().ino(), ino);
    assert!(recovered(&mount).is_empty());
}

#[test]
fn what_decodes_in_no_part_stays_and_is_told() {
    let Some((mount, file, _)) = sealed("repair-none") else {
        return;
    };
    let old = mount.store("p/old.jsonl.zst");
    let nonsense = Rng::new(3).bytes(9_000);
    let mut broken = zstd(&["-19"], &line("x", 1, 300_000));
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    fs::write(&file, &nonsense).unwrap();
    fs::write(&old, &broken).unwrap();
    let text = repair(&mount, 1);
    assert!(
        text.contains("s.jsonl: not repaired: nothing in it can be decoded"),
        "{text}"
    );
    assert!(text.contains("old.jsonl: not repaired: "), "{text}");
    assert!(fs::read(&file).unwrap() == nonsense && fs::read(&old).unwrap() == broken);
    assert!(recovered(&mount).is_empty());
}

#[test]
fn json_tells_what_was_repaired_and_what_remains() {
    let Some((mount, file, _)) = sealed("repair-json") else {
        return;
    };
    flip(&file, 60_000);
    fs::write(mount.store("p/none.jsonl.zst"), "no zstd").unwrap();
    let output = mount.run(&["verify", "--repair", "--json"]);
    let (code, text) = told(&output);
    assert_eq!(code, Some(1), "{text}");
    let kept = leftovers(&mount, "recovered");
    for part in [
        "{\"files\":2,".to_owned(),
        "\"recovered\":1,".to_owned(),
        format!(
            "\"findings\":[{{\"path\":\"{}",
            mount.store("p/none.jsonl.zst").display()
        ),
        format!(
            "\"repaired\":[{{\"path\":\"{}\",\"what\":\"rebuilt from ",
            file.display()
        ),
        format!(
            "\"kept\":\"{}",
            mount.store(".cellar/recovered").join(&kept[0]).display()
        ),
        format!(
            "\"not_repaired\":[{{\"path\":\"{}",
            mount.store("p/none.jsonl").display()
        ),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    assert!(text.ends_with("}]}\n"), "{text}");
    let output = mount.run(&["verify", "--json"]);
    assert!(!told(&output).1.contains("repaired"));
}

#[test]
fn a_path_is_repaired_in_the_store_it_lies_in() {
    let Some((mount, file, _)) = sealed("repair-path") else {
        return;
    };
    let other = mount.store("p/other.jsonl.zst");
    fs::copy(&file, &other).unwrap();
    flip(&file, 60_000);
    flip(&other, 60_000);
    // Another store than the configured one, that only its own directory tells.
    fs::create_dir(mount.store(".cellar")).unwrap();
    let run = |path: &Path| {
        let mut command = mount.command(&["verify", "--repair"]);
        command
            .arg(path)
            .env("CLAUDE_CELLAR_STORE_DIR", mount.outside("none"));
        told(&command.output().unwrap())
    };
    let (code, text) = run(&mount.store("p/s.jsonl"));
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("1 session, ") && text.contains("s.jsonl.zst: rebuilt"),
        "{text}"
    );
    let (code, text) = run(&mount.store("p"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("other.jsonl.zst: rebuilt"), "{text}");
    verify_is_clean(&mount);
    fs::copy(&file, mount.outside("s.jsonl.zst")).unwrap();
    let (code, text) = run(&mount.outside("s.jsonl.zst"));
    assert!(
        code == Some(1) && text.contains("it lies in no store"),
        "{text}"
    );
    let (code, text) = run(&mount.store(".cellar/recovered"));
    assert!(
        code == Some(1) && text.contains("the cellar's own"),
        "{text}"
    );
    let (code, text) = told(
        &mount
            .command(&["verify", "--repair", "none"])
            .output()
            .unwrap(),
    );
    assert!(
        code == Some(1) && text.contains("none: No such file"),
        "{text}"
    );
}

#[test]
fn a_running_daemon_is_not_disturbed() {
    let Some((mut mount, file, _)) = sealed("repair-daemon") else {
        return;
    };
    flip(&file, 60_000);
    let damaged = fs::read(&file).unwrap();
    mount.mount();
    let text = repair(&mount, 1);
    for part in [
        "a daemon",
        "systemctl --user stop claude-cellar",
        "claude-cellar umount",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().count(), 1, "{text}");
    let inside = mount.path("p/s.jsonl");
    let (code, text) = told(&mount.run(&["verify", "--repair", inside.to_str().unwrap()]));
    assert!(code == Some(1) && text.contains("mounted cellar"), "{text}");
    assert_eq!(fs::read(&file).unwrap(), damaged);
    mount.sigterm();
    repair(&mount, 0);
}

#[test]
fn the_time_0_3_0_noted_beside_a_session_is_kept() {
    let Some((mount, file, _)) = sealed("repair-sidecar") else {
        return;
    };
    flip(&file, 60_000);
    let mut sidecar = [1u8; 48];
    sidecar[8..16].copy_from_slice(&1_600_000_000_i64.to_le_bytes());
    fs::write(mount.store("p/s.jsonl.meta"), sidecar).unwrap();
    repair(&mount, 0);
    assert_eq!(fs::metadata(&file).unwrap().mtime(), 1_600_000_000);
    assert!(!mount.store("p/s.jsonl.meta").exists());
    assert!(recovered(&mount).contains(&sidecar.to_vec()), "kept too");
}

#[test]
fn without_space_the_session_stays_as_it_is() {
    let mount = Mount::prepare("repair-full").on_tmpfs(1 << 20);
    if !mount.has_store() {
        return;
    }
    fs::create_dir(mount.store("p")).unwrap();
    let file = mount.store("p/s.jsonl.zst");
    let mut rng = Rng::new(4);
    let parts: Vec<Vec<u8>> = (0..4).map(|_| rng.bytes(150_000)).collect();
    fs::write(
        &file,
        parts
            .iter()
            .flat_map(|part| zstd(&[], part))
            .collect::<Vec<u8>>(),
    )
    .unwrap();
    flip(&file, 200_000);
    let damaged = fs::read(&file).unwrap();
    let text = repair(&mount, 1);
    assert!(
        text.contains("not repaired: No space left on device"),
        "{text}"
    );
    assert_eq!(fs::read(&file).unwrap(), damaged);
    assert!(leftovers(&mount, "tmp").is_empty() && recovered(&mount).is_empty());

    // Setting a torn append aside takes space for its bytes.
    let begin = Trailer {
        logical: 0,
        sealed_end: 32,
        frame_len: 0,
    };
    let torn = [begin.encode(0).as_slice(), &rng.bytes(50_000)].concat();
    fs::write(&file, &torn).unwrap();
    while let Ok(()) = fs::write(
        mount.store(format!("p/{}.bin", rng.next())),
        rng.bytes(4_096),
    ) {}
    repair(&mount, 1);
    assert_eq!(fs::read(&file).unwrap(), torn);
    assert!(
        recovered(&mount).is_empty(),
        "half of the bytes are not kept"
    );
}

#[test]
fn killed_at_any_instant_a_repair_loses_nothing() {
    let mount = Mount::prepare("repair-kill").seal_after(86_400);
    if !mount.has_store() {
        return;
    }
    let mut rng = Rng::new(77);
    fs::create_dir(mount.store("p")).unwrap();
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..12 {
        let parts: Vec<Vec<u8>> = (0..6).map(|_| corpus::session(&mut rng, 400_000)).collect();
        let mut stored: Vec<u8> = parts.iter().flat_map(|part| zstd(&["-1"], part)).collect();
        let frame = frames(&stored)[2];
        stored[frame.at + frame.length / 2] ^= 4;
        let name = format!("{number}.jsonl.zst");
        fs::write(mount.store("p").join(&name), &stored).unwrap();
        let want = [&parts[..2], &parts[3..]].concat().concat();
        before.insert(name.clone(), stored);
        after.insert(name, want);
    }
    let (mut mended, mut round) = (0, 0);
    while mended < before.len() {
        let mut child = mount.command(&["verify", "--repair"]).spawn().unwrap();
        let delay = Duration::from_micros(2_000 + rng.below(40_000 + round * 4_000));
        let started = Instant::now();
        while started.elapsed() < delay && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let kept = recovered(&mount);
        mended = 0;
        for (name, old) in &before {
            let file = mount.store("p").join(name);
            if fs::read(&file).unwrap() != *old {
                assert_same(&zstd_dc(&file), &after[name], name);
                assert!(kept.contains(old), "{name} is kept");
                mended += 1;
            }
        }
        round += 1;
        assert!(round < 400, "it gets done");
    }
    repair(&mount, 0);
    assert!(
        leftovers(&mount, "tmp").is_empty(),
        "nothing half done is left"
    );
    verify_is_clean(&mount);
}

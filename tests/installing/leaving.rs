//! `uninstall`: the service goes, the store stays, and with `--restore` everything is a plain file again.

use super::manager::Managed;
use super::trees::{self, Tree, assert_same, tree};
use super::{file_system, put, run_with, store, unmount};
use crate::cellar::{Home, mounted, signal};
use crate::common::rng::Rng;
use std::fs::{self, File};
use std::path::Path;

#[test]
fn uninstall_ends_everything_but_the_store() {
    let managed = Managed::new();
    trees::odd(&managed.home.mount_dir());
    let before = tree(&managed.home.mount_dir());
    managed.run("install").ends(0);
    let told = managed.run("uninstall").ends(0).out;
    assert!(
        told.contains(&format!(
            "the store is kept: {}",
            store(&managed.home).display()
        )),
        "{told}"
    );
    assert!(
        told.contains("claude-cellar export"),
        "how to get plain files: {told}"
    );
    assert_eq!(mounted(&managed.home.mount_dir()), None);
    assert!(!managed.unit().exists() && !managed.wanted().is_symlink());
    assert_eq!(tree(&managed.home.mount_dir()), Tree::new());
    // Twice is no failure, and nothing is lost by it.
    managed.run("uninstall").ends(0);
    managed.run("install").ends(0);
    assert_same(&tree(&managed.home.mount_dir()), &before, "installed again");
}

#[test]
fn restore_brings_every_file_back_as_it_was() {
    let managed = Managed::new();
    let home = &managed.home;
    trees::odd(&home.mount_dir());
    let before = tree(&home.mount_dir());
    for systemd in [true, false] {
        let told = match systemd {
            true => {
                managed.run("install").ends(0);
                managed.run("uninstall --restore").ends(0).out
            }
            false => {
                home.run("install --no-systemd").ends(0);
                home.run("uninstall --restore").ends(0).out
            }
        };
        assert!(told.contains("restored "), "{told}");
        assert_eq!(mounted(&home.mount_dir()), None);
        assert_same(
            &tree(&home.mount_dir()),
            &before,
            "after uninstall --restore",
        );
        assert!(
            store(home).join("-home-user-alpha").is_dir(),
            "the store is kept"
        );
        assert!(!managed.unit().exists());
    }
}

#[test]
fn restore_takes_what_was_written_while_nothing_was_mounted() {
    let home = Home::new();
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    home.run("install --no-systemd").ends(0);
    unmount(&home);
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":2}\n");
    put(&home.mount_dir().join("-q/s.jsonl"), "{\"n\":3}\n");
    home.run("uninstall --restore").ends(0);
    let read = |name: &str| fs::read_to_string(home.mount_dir().join(name)).unwrap();
    assert_eq!(read("-p/s.jsonl"), "{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(read("-q/s.jsonl"), "{\"n\":3}\n");
}

#[test]
fn restore_is_refused_where_space_is_short_and_nothing_changed() {
    let managed = Managed::new();
    let home = &managed.home;
    // The projects are on the small file system, the store is not.
    let small = file_system(home, ".claude", "size=1m,mode=0755");
    let mut lines = Vec::new();
    Rng::new(3).words(&mut lines, 400_000);
    for n in 0..3 {
        managed.run("install").ends(0);
        put(&small.join(format!("projects/-p/{n}.jsonl")), &lines);
    }
    let before = tree(&home.mount_dir());
    let unit = managed.text();
    let ran = managed.run("uninstall --restore").ends(1);
    ran.complains(&["free", "nothing was written"]);
    assert_same(&tree(&home.mount_dir()), &before, "after the refusal");
    assert!(mounted(&home.mount_dir()).is_some());
    assert_eq!(managed.text(), unit);
    assert!(managed.wanted().is_symlink());
}

#[test]
fn restore_goes_where_the_service_mounts_whatever_the_shell_says() {
    let managed = Managed::new();
    let home = &managed.home;
    let (claude, named) = (home.dir.join("claude"), home.dir.join("named"));
    put(&claude.join("projects/-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&claude.join("projects"));
    let variables = [
        ("CLAUDE_CONFIG_DIR", claude.as_path()),
        ("CLAUDE_CELLAR_STORE_DIR", &named),
    ];
    managed.run_with("install", &variables).ends(0);
    fs::remove_file(home.dir.join(".config/claude-cellar/store-dir.path")).unwrap();
    managed.run("uninstall --restore").ends(0);
    assert_same(
        &tree(&claude.join("projects")),
        &before,
        "after uninstall --restore",
    );
    assert!(!home.mount_dir().exists() && !store(home).exists());
}

#[test]
fn uninstall_is_refused_while_a_program_uses_the_sessions() {
    let managed = Managed::new();
    let home = &managed.home;
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    managed.run("install").ends(0);
    let open = File::options()
        .append(true)
        .open(home.mount_dir().join("-p/s.jsonl"))
        .unwrap();
    for line in ["uninstall", "uninstall --restore"] {
        managed
            .run(line)
            .ends(1)
            .complains(&["-p/s.jsonl", "close it first"]);
        assert!(mounted(&home.mount_dir()).is_some());
        assert!(managed.unit().exists());
    }
    drop(open);
    managed.run("uninstall").ends(0);
}

#[test]
fn uninstall_without_a_manager_removes_the_unit_all_the_same() {
    let managed = Managed::new();
    managed.run("install").ends(0);
    assert!(managed.wanted().is_symlink());
    // A shell of `su` reaches no manager.
    managed.home.run("uninstall").ends(0);
    assert_eq!(mounted(&managed.home.mount_dir()), None);
    assert!(!managed.unit().exists() && !managed.wanted().is_symlink());
}

#[test]
fn uninstall_clears_a_dead_mount() {
    let home = Home::new();
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&home.mount_dir());
    home.run("install --no-systemd").ends(0);
    signal(&crate::cellar::pid(&home), "KILL");
    crate::cellar::within(crate::cellar::SECOND, "it is stale", || {
        home.run("status").out.contains("stale")
    });
    home.run("uninstall --restore").ends(0);
    assert_same(
        &tree(&home.mount_dir()),
        &before,
        "after uninstall --restore",
    );
}

#[test]
fn what_is_damaged_is_named_and_the_rest_restored() {
    let managed = Managed::new();
    let home = &managed.home;
    put(&store(home).join("-p/bad.jsonl.zst"), "no zstd at all");
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    managed.run("install").ends(0);
    managed
        .run("uninstall --restore")
        .ends(1)
        .complains(&["bad.jsonl", "the service is kept"]);
    assert!(managed.unit().exists());
    let read = fs::read_to_string(home.mount_dir().join("-p/s.jsonl"));
    assert_eq!(read.unwrap(), "{\"n\":1}\n");
    // It goes on where it stopped, with nothing taken twice.
    managed.run("install").ends(0);
    let read = fs::read_to_string(home.mount_dir().join("-p/s.jsonl"));
    assert_eq!(read.unwrap(), "{\"n\":1}\n");
}

#[test]
fn the_store_named_by_a_variable_is_the_one_restored() {
    let home = Home::new();
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&home.mount_dir());
    let named = home.dir.join("named");
    run_with(
        &home,
        "install --no-systemd",
        &[("CLAUDE_CELLAR_STORE_DIR", &named)],
    )
    .ends(0);
    home.run("uninstall --restore").ends(0);
    assert_same(
        &tree(&home.mount_dir()),
        &before,
        "after uninstall --restore",
    );
    assert!(named.join(Path::new("-p")).is_dir());
}

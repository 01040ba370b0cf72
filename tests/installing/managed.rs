//! A unit that something else takes care of is left as it is, said so, and believed.

use super::manager::Managed;
use super::trees::{assert_same, tree};
use super::{put, store};
use crate::cellar::mounted;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The unit of a package, which mounts this store.
fn packaged(managed: &Managed, store: Option<&Path>) -> String {
    let environment =
        store.map(|store| format!("Environment=CLAUDE_CELLAR_STORE_DIR={}\n", store.display()));
    format!(
        "[Service]\nType=notify\nExecStart={} mount --foreground --adopt\nExecStop=-/bin/true\n{}",
        env!("CARGO_BIN_EXE_claude-cellar"),
        environment.unwrap_or_default()
    ) + &format!("Environment=HOME={}\n", managed.home.dir.display())
}

#[derive(Clone, Copy)]
enum Place {
    Link,
    Package,
}

fn with_unit(place: Place, store: Option<&Path>) -> (Managed, PathBuf) {
    let managed = Managed::new();
    let store = store.map(|store| managed.home.dir.join(store));
    let text = packaged(&managed, store.as_deref());
    let file = match place {
        Place::Link => managed.home.dir.join("nix/store/claude-cellar.service"),
        Place::Package => managed.home.dir.join("packaged/claude-cellar.service"),
    };
    put(&file, text);
    if let Place::Link = place {
        fs::create_dir_all(managed.unit().parent().unwrap()).unwrap();
        symlink(&file, managed.unit()).unwrap();
    }
    (managed, file)
}

#[test]
fn a_unit_in_another_tree_is_left_and_used() {
    for place in [Place::Link, Place::Package] {
        let (managed, file) = with_unit(place, None);
        put(&managed.home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
        let before = tree(&managed.home.mount_dir());
        let text = fs::read(&file).unwrap();
        let told = managed.run("install").ends(0).out;
        assert!(
            told.contains("managed elsewhere and left as it is"),
            "{told}"
        );
        assert_eq!(fs::read(&file).unwrap(), text);
        let calls = managed.calls();
        assert!(
            !calls.iter().any(|call| call.starts_with("enable")),
            "{calls:?}"
        );
        assert_same(&tree(&managed.home.mount_dir()), &before, "after install");
        managed.run("install").ends(0);
        let told = managed.run("uninstall").ends(0).out;
        assert!(
            told.contains("managed elsewhere: disable it there"),
            "{told}"
        );
        assert_eq!(fs::read(&file).unwrap(), text);
        assert_eq!(mounted(&managed.home.mount_dir()), None);
    }
}

#[test]
fn the_store_that_such_a_unit_names_is_where_everything_goes() {
    for place in [Place::Link, Place::Package] {
        let (managed, _) = with_unit(place, Some(Path::new("named")));
        let named = managed.home.dir.join("named");
        put(&managed.home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
        put(&named.join("-q/s.jsonl"), "{\"n\":2}\n");
        let mut all = tree(&managed.home.mount_dir());
        all.extend(tree(&named));
        // The shell may say what it wants: the service cannot be told.
        let other = managed.home.dir.join("other");
        managed
            .run_with("install", &[("CLAUDE_CELLAR_STORE_DIR", &other)])
            .ends(0);
        assert_same(&tree(&managed.home.mount_dir()), &all, "after install");
        assert!(named.join("-p").exists() && !other.exists() && !store(&managed.home).exists());
        let told = managed.run("uninstall --restore").ends(0).out;
        assert!(told.contains(named.to_str().unwrap()), "{told}");
        assert_same(&tree(&managed.home.mount_dir()), &all, "after uninstall");
    }
}

#[test]
fn such_a_unit_follows_the_one_link_by_the_note() {
    let (managed, _) = with_unit(Place::Link, None);
    let target = managed.home.dir.join("nfs");
    put(&target.join("s.jsonl"), "{\"n\":1}\n");
    fs::create_dir_all(managed.home.mount_dir()).unwrap();
    symlink(&target, managed.home.mount_dir().join("-linked")).unwrap();
    managed.run("install").ends(0);
    let seen = fs::read_to_string(managed.home.mount_dir().join("-linked/s.jsonl"));
    assert_eq!(seen.unwrap(), "{\"n\":1}\n");
}

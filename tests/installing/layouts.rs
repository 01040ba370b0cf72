//! Each layout of the projects directory: where the store is, and that everything is seen again.

use super::trees::{self, Tree, assert_same, below, tree, united, within, without};
use super::{SESSION, file_system, put, run_with, store, unmount};
use crate::cellar::{Home, mounted};
use crate::common::foreign::old_release;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

const INSTALL: &str = "install --no-systemd";

/// Installs; what is seen is what is wanted, also after the mount has ended and begun again.
#[track_caller]
fn installs(home: &Home, want: &Tree) -> String {
    let told = home.run(INSTALL).ends(0).out;
    remounts(home, want);
    told
}

#[track_caller]
fn remounts(home: &Home, want: &Tree) {
    let dir = home.mount_dir().canonicalize().unwrap();
    assert!(mounted(&dir).is_some());
    assert_same(&tree(&dir), want, "after install");
    unmount(home);
    assert_same(&tree(&dir), &Tree::new(), "beneath the mount");
    home.run("mount").ends(0);
    assert_same(&tree(&dir), want, "mounted again");
}

#[test]
fn an_absent_or_empty_projects_directory_gets_the_default_store() {
    for empty in [false, true] {
        let home = Home::new();
        if empty {
            fs::create_dir_all(home.mount_dir()).unwrap();
        }
        let told = installs(&home, &Tree::new());
        assert!(told.contains("projects   "), "{told}");
        assert!(told.contains(": nothing\n"), "{told}");
        assert!(store(&home).join(".cellar").is_dir());
        put(&home.mount_dir().join("-p/s.jsonl"), "{}\n");
        home.run("status").ends(0);
    }
}

#[test]
fn everything_in_real_projects_is_seen_again_and_only_renamed() {
    let home = Home::new();
    trees::odd(&home.mount_dir());
    let before = tree(&home.mount_dir());
    let inode = |path: &Path| path.metadata().unwrap().ino();
    let memory = inode(&home.mount_dir().join("memory/MEMORY.md"));
    let told = installs(&home, &before);
    assert!(told.contains("moved by rename"), "{told}");
    assert_eq!(inode(&store(&home).join("memory/MEMORY.md")), memory);
}

#[test]
fn everything_in_real_projects_is_seen_again_on_another_file_system() {
    let home = Home::new();
    trees::odd(&home.mount_dir());
    let before = tree(&home.mount_dir());
    let other = file_system(&home, "other", "size=64m,mode=0755");
    let told = run_with(&home, INSTALL, &[("CLAUDE_CELLAR_STORE_DIR", &other)])
        .ends(0)
        .out;
    assert!(told.contains("copied from another file system"), "{told}");
    // The store is remembered.
    remounts(&home, &before);
    assert!(other.join("-home-user-alpha").is_dir());
}

#[test]
fn the_one_link_s_target_becomes_the_store_with_its_sessions_in_a_project() {
    for other_file_system in [false, true] {
        let home = Home::new();
        let target = match other_file_system {
            true => file_system(&home, "nfs", "size=16m,mode=0755"),
            false => home.dir.join("nfs"),
        };
        trees::flat(&target);
        let flat = tree(&target);
        fs::create_dir_all(home.mount_dir()).unwrap();
        symlink(&target, home.mount_dir().join("-linked")).unwrap();
        let project = project_of(&flat, &home, "-linked");
        let told = installs(&home, &project);
        assert!(
            told.contains("-linked leads to the store and is removed"),
            "{told}"
        );
        assert!(!store(&home).exists());
        assert!(target.join(".cellar").is_dir());
        assert!(!target.join(".cellar/flat").exists());
    }
}

/// A flat directory as the project of this name.
fn project_of(flat: &Tree, home: &Home, name: &str) -> Tree {
    // A project directory is made like the one that holds it now.
    let probe = home.dir.join("probe");
    fs::create_dir_all(probe.join(name)).unwrap();
    let dir = below(&tree(&home.dir), "probe");
    fs::remove_dir_all(probe).unwrap();
    united(&[&dir, &within(flat, name)])
}

#[test]
fn what_lies_beside_the_one_link_is_taken_to_its_target_too() {
    for other_file_system in [false, true] {
        let home = Home::new();
        let target = match other_file_system {
            true => file_system(&home, "nfs", "size=64m,mode=0755"),
            false => home.dir.join("nfs"),
        };
        trees::flat(&target);
        trees::odd(&home.mount_dir());
        let (flat, odd) = (tree(&target), tree(&home.mount_dir()));
        symlink("../../nfs", home.mount_dir().join("-linked")).unwrap();
        installs(
            &home,
            &united(&[&odd, &project_of(&flat, &home, "-linked")]),
        );
        assert!(!store(&home).exists());
    }
}

/// A store as 0.3.0 wrote it, and what is to be seen of it.
fn old_store(dir: &Path) -> Tree {
    let seen = dir.with_file_name("seen");
    for n in 0..3 {
        let data = format!("{{\"n\":{n}}}\n").repeat(100);
        let name = format!("-old/33333333-0000-4000-8000-{n:012}.jsonl");
        put(&seen.join(&name), &data);
        put(
            &dir.join(format!("{name}.zst")),
            old_release(data.as_bytes()),
        );
        let time = 1_650_000_000 + n;
        crate::common::sys::set_mtime(&seen.join(&name), time, 0).unwrap();
        let meta = [
            &(data.len() as u64).to_le_bytes()[..],
            &time.to_le_bytes(),
            &[7; 32],
        ];
        put(
            &dir.join(name.replace(".jsonl", ".jsonl.meta")),
            meta.concat(),
        );
    }
    let before = tree(&seen);
    fs::remove_dir_all(seen).unwrap();
    before
}

#[test]
fn a_target_that_is_a_store_of_0_3_is_joined_as_it_is() {
    let home = Home::new();
    let target = home.dir.join("nfs");
    let old = old_store(&target);
    trees::odd(&home.mount_dir());
    let odd = tree(&home.mount_dir());
    symlink(&target, home.mount_dir().join("-linked")).unwrap();
    installs(&home, &united(&[&odd, &old]));
    assert!(!target.join("-linked").exists());
}

/// Has everything compressed, so that no name changes while the other host reads.
fn sealed(home: &Home) {
    crate::cellar::signal(&crate::cellar::pid(home), "USR1");
    crate::cellar::within(20 * crate::cellar::SECOND, "all is sealed", || {
        home.run("status --json").out.contains(r#""unsealed":0"#)
    });
}

#[test]
fn a_second_host_joins_the_store_of_the_first() {
    let first = Home::new();
    let target = first.dir.join("nfs");
    trees::flat(&target);
    let flat = tree(&target);
    let mut want = project_of(&flat, &first, "-linked");
    fs::create_dir_all(first.mount_dir()).unwrap();
    symlink(&target, first.mount_dir().join("-linked")).unwrap();
    first.run(INSTALL).ends(0);
    sealed(&first);

    // The first host's daemon goes on while the second comes with its own link and more.
    let second = Home::new();
    put(
        &second.mount_dir().join("-second/s.jsonl"),
        "{\"host\":2}\n",
    );
    want.extend(tree(&second.mount_dir()));
    symlink(&target, second.mount_dir().join("-named-otherwise")).unwrap();
    let told = second.run(INSTALL).ends(0).out;
    assert!(told.contains("kept where it is"), "{told}");
    assert!(!told.contains("goes to"), "{told}");
    sealed(&second);
    assert_same(&tree(&second.mount_dir()), &want, "on the second host");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_same(&tree(&first.mount_dir()), &want, "on the first host");
}

#[test]
fn two_links_stay_links_and_the_plan_says_so() {
    let home = Home::new();
    trees::odd(&home.mount_dir());
    for name in ["one", "two"] {
        trees::flat(&home.dir.join(name));
        symlink(
            home.dir.join(name),
            home.mount_dir().join(format!("-{name}")),
        )
        .unwrap();
    }
    let (before, one) = (tree(&home.mount_dir()), tree(&home.dir.join("one")));
    let told = installs(&home, &before);
    for name in ["-one", "-two"] {
        assert!(told.contains(&format!("{name} stays a link")), "{told}");
    }
    assert_same(&tree(&home.dir.join("one")), &one, "where the link leads");
    assert!(
        home.mount_dir()
            .join(format!("-home-user-alpha/{SESSION}.jsonl"))
            .exists()
    );
}

#[test]
fn links_that_lead_nowhere_or_to_a_file_or_back_are_kept() {
    let home = Home::new();
    put(&home.mount_dir().join("-p/s.jsonl"), "{}\n");
    put(&home.dir.join("file"), "x");
    for (target, name) in [
        ("../../nowhere", "dangling"),
        ("../../file", "to-file"),
        ("-p", "beside"),
    ] {
        symlink(target, home.mount_dir().join(name)).unwrap();
    }
    symlink("loop", home.mount_dir().join("loop")).unwrap();
    let before = tree(&home.mount_dir());
    installs(&home, &before);
    assert!(store(&home).is_dir());
}

#[test]
fn a_projects_directory_that_is_a_link_is_mounted_where_it_leads() {
    let home = Home::new();
    trees::odd(&home.dir.join("elsewhere"));
    let before = tree(&home.dir.join("elsewhere"));
    fs::create_dir(home.dir.join(".claude")).unwrap();
    symlink("../elsewhere", home.mount_dir()).unwrap();
    installs(&home, &before);
    assert!(home.mount_dir().symlink_metadata().unwrap().is_symlink());
    assert!(mounted(&home.dir.join("elsewhere")).is_some());
}

#[test]
fn claude_config_dir_and_the_variables_say_where() {
    let home = Home::new();
    trees::odd(&home.dir.join("config/projects"));
    let before = tree(&home.dir.join("config/projects"));
    let (config, named) = (home.dir.join("config"), home.dir.join("named store"));
    let variables = [
        ("CLAUDE_CONFIG_DIR", config.as_path()),
        ("CLAUDE_CELLAR_STORE_DIR", &named),
    ];
    run_with(&home, INSTALL, &variables).ends(0);
    assert_same(&tree(&config.join("projects")), &before, "after install");
    assert!(!home.mount_dir().exists());
    // Without the store's variable it is found all the same.
    let variables = &variables[..1];
    run_with(&home, "umount", variables).ends(0);
    run_with(&home, "mount", variables).ends(0);
    assert_same(&tree(&config.join("projects")), &before, "mounted again");
    let noted = fs::read_to_string(home.dir.join(".config/claude-cellar/store-dir.path"));
    assert_eq!(noted.unwrap(), format!("{}\n", named.display()));
}

#[test]
fn a_named_store_leaves_the_one_link_a_link() {
    let home = Home::new();
    trees::flat(&home.dir.join("nfs"));
    fs::create_dir_all(home.mount_dir()).unwrap();
    symlink("../../nfs", home.mount_dir().join("-linked")).unwrap();
    let before = tree(&home.mount_dir());
    let named = home.dir.join("named");
    run_with(&home, INSTALL, &[("CLAUDE_CELLAR_STORE_DIR", &named)]).ends(0);
    remounts(&home, &before);
    assert!(
        named
            .join("-linked")
            .symlink_metadata()
            .unwrap()
            .is_symlink()
    );
}

#[test]
fn installing_twice_changes_nothing() {
    let home = Home::new();
    trees::odd(&home.mount_dir());
    let before = tree(&home.mount_dir());
    home.run(INSTALL).ends(0);
    let daemon = crate::cellar::pid(&home);
    let told = home.run(INSTALL).ends(0).out;
    assert!(told.contains("mounted already"), "{told}");
    assert_eq!(crate::cellar::pid(&home), daemon, "the daemon goes on");
    assert_same(&tree(&home.mount_dir()), &before, "after the second");
    // What came while it was down is taken in by the third.
    unmount(&home);
    put(&home.mount_dir().join("-late/s.jsonl"), "{\"late\":1}\n");
    let late = tree(&home.mount_dir());
    home.run(INSTALL).ends(0);
    assert_same(
        &tree(&home.mount_dir()),
        &united(&[&before, &late]),
        "after the third",
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let home = Home::new();
    trees::odd(&home.mount_dir());
    trees::flat(&home.dir.join("nfs"));
    symlink("../../nfs", home.mount_dir().join("-linked")).unwrap();
    let before = tree(&home.dir);
    let told = home.run("install --no-systemd --dry-run").ends(0).out;
    assert_same(&tree(&home.dir), &before, "after the dry run");
    for line in [
        "projects   ",
        "store      ",
        "sessions   ",
        "link       -linked",
        "service    ",
    ] {
        assert!(told.contains(line), "no {line:?} in {told}");
    }
    assert_eq!(mounted(&home.mount_dir()), None);
    // The real run says the same first.
    let done = home.run(INSTALL).ends(0).out;
    assert!(done.starts_with(&told), "{done}\n--- is not\n{told}");
}

#[test]
fn a_stale_mount_is_cleared_and_what_lies_beneath_taken_in() {
    let home = Home::new();
    home.run("mount").ends(0);
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&home.mount_dir());
    crate::cellar::signal(&crate::cellar::pid(&home), "KILL");
    crate::cellar::within(crate::cellar::SECOND, "it is stale", || {
        home.run("status").out.contains("stale")
    });
    let told = home.run(INSTALL).ends(0).out;
    assert!(told.contains("killed daemon"), "{told}");
    assert_same(&tree(&home.mount_dir()), &before, "after install");
}

#[test]
fn another_store_is_not_written_down_over_a_daemon_that_serves_the_first() {
    let home = Home::new();
    put(&home.mount_dir().join("-p/s.jsonl"), "{\"n\":1}\n");
    let before = tree(&home.mount_dir());
    home.run(INSTALL).ends(0);
    let other = home.dir.join("other");
    let ran = run_with(&home, INSTALL, &[("CLAUDE_CELLAR_STORE_DIR", &other)]);
    // Whatever it does about it: what is noted is what is mounted, and nothing is hidden.
    assert_same(&tree(&home.mount_dir()), &before, &format!("{ran:?}"));
    unmount(&home);
    home.run("mount").ends(0);
    assert_same(&tree(&home.mount_dir()), &before, "mounted again");
}

#[test]
fn a_link_that_was_followed_leaves_no_trace_of_itself() {
    let home = Home::new();
    trees::flat(&home.dir.join("nfs"));
    fs::create_dir_all(home.mount_dir()).unwrap();
    symlink("../../nfs", home.mount_dir().join("-linked")).unwrap();
    home.run(INSTALL).ends(0);
    let seen = tree(&home.mount_dir());
    assert_eq!(without(&seen, &["-linked"]), Tree::new());
    let names: Vec<_> = fs::read_dir(home.dir.join("nfs")).unwrap().collect();
    assert_eq!(names.len(), 2, "the project and .cellar: {names:?}");
}

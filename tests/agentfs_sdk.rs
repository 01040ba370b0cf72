//! The library does what the commands do.

use std::fs;
use std::path::{Path, PathBuf};

use claude_cellar::agentfs::note::{Call, Note};
use claude_cellar::agentfs::{self, record};

/// A project with a history, both removed at the end.
struct Project(PathBuf);

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_program_records_compares_and_restores_a_directory() {
    let top = std::env::temp_dir().join(format!("agentfs-sdk-{}", std::process::id()));
    let _project = Project(top.clone());
    let dir = top.join("app");
    fs::create_dir_all(dir.join("src")).unwrap();
    fs::write(dir.join("src/a.rs"), "one\n").unwrap();
    fs::write(dir.join("b.txt"), "b\n").unwrap();
    // SAFETY: this process has one test, and no thread of it reads the environment meanwhile.
    unsafe { std::env::set_var("AGENTFS_HOME", top.join("home")) };

    assert!(
        agentfs::diff(&dir, "@", None).is_err(),
        "nothing is recorded yet"
    );
    record::init(None, &dir, false).unwrap();
    assert!(
        agentfs::checkpoint(&dir, Note::default())
            .unwrap()
            .is_none()
    );
    fs::write(dir.join("src/a.rs"), "one\ntwo\n").unwrap();
    fs::remove_file(dir.join("b.txt")).unwrap();
    let call = Call {
        tool: Some("Edit".into()),
        ..Call::default()
    };
    let note = Note {
        message: "two".into(),
        call,
        ..Note::default()
    };
    let made = agentfs::checkpoint(&dir.join("src"), note)
        .unwrap()
        .unwrap();
    assert_eq!((made.note.version, made.note.message.as_str()), (2, "two"));

    let changes = agentfs::diff(&dir, "v1", Some("v2")).unwrap();
    let seen: Vec<_> = changes
        .iter()
        .map(|c| (c.path.as_slice(), c.status, c.added, c.removed))
        .collect();
    assert_eq!(
        seen,
        [
            (&b"b.txt"[..], 'D', Some(0), Some(1)),
            (b"src/a.rs", 'M', Some(1), Some(0)),
        ]
    );

    let done = agentfs::restore(&dir, "v1", &[Path::new("b.txt").into()]).unwrap();
    assert_eq!(done.after.unwrap().note.version, 3);
    assert_eq!(fs::read(dir.join("b.txt")).unwrap(), b"b\n");
    assert_eq!(fs::read(dir.join("src/a.rs")).unwrap(), b"one\ntwo\n");
    agentfs::restore(&dir, "v1", &[]).unwrap();
    assert_eq!(fs::read(dir.join("src/a.rs")).unwrap(), b"one\n");
    assert!(agentfs::diff(&dir, "v1", None).unwrap().is_empty());
}

//! The README's tour of agentfs does what it shows.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn the_tour_of_the_readme_works_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let tour = blocks.find(|block| block.contains("agentfs undo")).unwrap();
    let temporary = std::env::temp_dir().join(format!("agentfs-tour-{}", std::process::id()));
    fs::create_dir_all(&temporary).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_agentfs")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", tour])
        .current_dir(root)
        .env("PATH", path)
        .env("HOME", &temporary)
        .env("TMPDIR", &temporary)
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .output()
        .unwrap();
    // A store may still be being packed in the background.
    let gone = || fs::remove_dir_all(&temporary).is_ok() || !temporary.exists();
    assert!((0..100).any(|_| gone() || {
        sleep(Duration::from_millis(100));
        false
    }));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    for wanted in [
        "v3  ",
        "Introduced in v2 by Edit tool",
        "Prompt: \"give me a cellar\"",
        "restored v2 as v4",
        "on branch experiment, at v2",
        "SESSION TIMELINE: tour",
        "tour.html",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
}

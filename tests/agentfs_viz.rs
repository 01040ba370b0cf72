//! `agentfs viz`: the page, looked at in a real browser. The checks themselves are `agentfs/viz.py`.

#![cfg(feature = "agentfs")]

use claude_cellar::agentfs::viz;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `python3 tests/agentfs/viz.py` with these arguments; what it prints.
fn script(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agentfs/viz.py"))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs");
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "viz.py {arguments:?}: {err}");
    out.clone()
}

/// A directory with the data of an example, and its page.
fn example(checkpoints: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("viz-{checkpoints}"));
    fs::create_dir_all(&dir).unwrap();
    let data = script(&["example", checkpoints]);
    let page = viz::page(&serde_json::from_slice(&data).unwrap());
    fs::write(dir.join("data.json"), data).unwrap();
    fs::write(dir.join("page.html"), page).unwrap();
    dir
}

#[test]
fn the_page_works_by_keyboard_mouse_and_finger_in_every_size_and_scheme() {
    let dir = example("60");
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    script(&[
        "check",
        &at("data.json"),
        &at("page.html"),
        &at("screenshots"),
    ]);
}

#[test]
fn a_thousand_checkpoints_stay_smooth() {
    let dir = example("1000");
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    script(&["speed", &at("page.html"), &at("screenshots")]);
}

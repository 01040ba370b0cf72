//! The units that the Nix modules are expected to declare are the one that `install` writes, and the flakes in the
//! README are those that are tested.
//!
//! `tests/nixos` compares the modules with the same units, and evaluates the same flakes. Nix sorts what it writes,
//! and each module adds a line of its own; specifiers are for the NixOS module to expand, so a percent sign is one
//! there already.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use claude_cellar::unit;

#[test]
fn home_manager_declares_the_unit_that_install_writes() {
    let own = "[Unit] X-SwitchMethod=keep-old";
    let store = "/home/alice/100%used sessions";
    assert_eq!(declared("home-manager", own), written(store));
}

#[test]
fn nixos_declares_the_unit_that_install_writes() {
    let own = "[Unit] ConditionPathIsDirectory=%h/.claude";
    let written = written("%h/sessions").into_iter();
    let written = written.map(|line| line.replace("%%", "%")).collect();
    assert_eq!(declared("nixos", own), written);
}

#[test]
fn the_flakes_of_the_readme_are_the_tested_ones() {
    let read = |name: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a file")
    };
    let readme = read("README.md");
    let blocks = readme.split("\n```nix\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|text| text.split("```").next()).collect();
    let files =
        ["home-manager", "nixos"].map(|name| read(&format!("tests/nixos/readme/{name}.nix")));
    assert_eq!(blocks, files);
}

fn declared(module: &str, own: &str) -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/nixos/{module}.service"));
    let mut lines = lines(&fs::read_to_string(file).unwrap());
    assert!(lines.remove(own), "{lines:#?}");
    lines
}

fn written(store: &str) -> BTreeSet<String> {
    let program = Path::new("@claude-cellar@/bin/claude-cellar");
    let variables = [
        ("CLAUDE_CELLAR_STORE_DIR", store.into()),
        ("CLAUDE_CELLAR_SEAL_AFTER", "1".into()),
    ];
    lines(&unit::text(program, &variables).unwrap())
}

/// Each line after the name of its section.
fn lines(unit: &str) -> BTreeSet<String> {
    let (mut section, mut lines) = ("", BTreeSet::new());
    for line in unit.lines().filter(|line| !line.is_empty()) {
        match line.starts_with('[') {
            true => section = line,
            false => assert!(lines.insert(format!("{section} {line}")), "{line} twice"),
        }
    }
    lines
}

//! The units that the Nix modules are expected to declare are the one that `install` writes.
//!
//! `tests/nixos/modules.nix` compares the modules with the same files. Nix sorts what it writes, and each module adds
//! a line of its own; specifiers are for the NixOS module to expand, so a percent sign is one there already.

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

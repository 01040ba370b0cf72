//! What shells and man make of the completions and the manual page. bash is asked for real; zsh, fish and groff
//! read them where they are installed.

mod cellar;

use std::fs;
use std::process::{Command, Stdio};

use cellar::{Home, Ran};

/// What bash offers for a command line; a word of its own for each argument.
fn offered(home: &Home, words: &[&str]) -> Vec<String> {
    let script = "source \"$1\" && COMP_WORDS=(\"${@:2}\") && COMP_CWORD=$(($# - 2)) && \
                  _claude_cellar && printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"])
        .arg(home.dir.join("bash"))
        .arg("claude-cellar")
        .args(words);
    let ran = Ran::from(bash.output().unwrap()).ends(0);
    assert_eq!(ran.err, "");
    let lines = ran.out.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_fixed_words() {
    let home = Home::new();
    let script = home.run("completions bash").ends(0).out;
    fs::write(home.dir.join("bash"), script).unwrap();
    for (words, wanted) in [
        (&["tra"][..], &["trash"][..]),
        (&["un"], &["uninstall"]),
        (&["--v"], &["--version"]),
        (&["mount", "--st"], &["--store-dir"]),
        (&["mount", "--foreground", "--mo"], &["--mount-dir"]),
        (&["trash", ""], &["list", "restore", "prune"]),
        // IDs are not completed, and files are the shell's own business.
        (&["trash", "restore", ""], &[]),
        (&["trash", "restore", "--"], &["--help"]),
        (&["completions", "z"], &["zsh"]),
        (&["help", "mo"], &["mount"]),
        (&["verify", ""], &[]),
        (&["mount", "--store-dir", ""], &[]),
        (&["nothing-like-it", ""], &[]),
    ] {
        assert_eq!(offered(&home, words), wanted, "{words:?}");
    }
    let all = offered(&home, &[""]);
    assert!(
        all.len() > 15 && all.contains(&"resume".to_owned()),
        "{all:?}"
    );
    // It is what bash calls for the program.
    let spec = home.shell("bash -c 'source ./bash && complete -p claude-cellar'");
    let spec = Ran::from({ spec }.output().unwrap()).ends(0).out;
    assert!(spec.contains("-F _claude_cellar claude-cellar"), "{spec}");
}

/// A program's verdict on a text; None if it is not installed.
fn verdict(home: &Home, text: &str, program: &str, args: &[&str]) -> Option<Ran> {
    let path = home.dir.join("text");
    fs::write(&path, text).unwrap();
    let mut command = Command::new(program);
    command.args(args).arg(&path).env("HOME", &home.dir);
    match command.stdin(Stdio::null()).output() {
        Ok(output) => Some(Ran::from(output)),
        Err(error) => {
            eprintln!("{program}: {error}; not tried");
            None
        }
    }
}

#[test]
fn zsh_and_fish_read_their_completions() {
    let home = Home::new();
    for shell in ["zsh", "fish"] {
        let script = home.run(&format!("completions {shell}")).ends(0).out;
        for word in ["claude-cellar", "decompress", "allow-other", "restore"] {
            assert!(script.contains(word), "no {word} for {shell}");
        }
        if let Some(ran) = verdict(&home, &script, shell, &["-n"]) {
            assert_eq!(ran.ends(0).err, "");
        }
    }
    let script = home.run("completions fish").ends(0).out;
    let asked =
        format!("{script}\ncomplete -C 'claude-cellar tra'; complete -C 'claude-cellar trash re'");
    if let Some(ran) = verdict(&home, &asked, "fish", &["--no-config"]) {
        let told = "trash\tList, restore or remove deleted sessions\nrestore\n";
        assert_eq!(ran.ends(0).out, told);
    }
    let script = home.run("completions zsh").ends(0).out;
    let asked =
        format!("autoload -U compinit && compinit -u -D\n{script}\nprint $_comps[claude-cellar]");
    if let Some(ran) = verdict(&home, &asked, "zsh", &["-f"]) {
        assert_eq!(ran.ends(0).out, "_claude_cellar\n");
    }
}

#[test]
fn the_manual_page_is_set_without_a_warning() {
    let home = Home::new();
    let page = home.run("help --man").ends(0).out;
    for word in [
        "CLAUDE_CELLAR_TRASH_DAYS",
        "EXIT STATUS",
        "claude\\-cellar resume",
    ] {
        assert!(page.contains(word), "no {word}");
    }
    if let Some(ran) = verdict(&home, &page, "groff", &["-man", "-ww", "-Tutf8"]) {
        assert_eq!(ran.code, Some(0));
        assert_eq!(ran.err, "");
        let shown = ran.out;
        // Literal blocks are not broken.
        assert!(shown.contains(
            "  zsh   claude-cellar completions zsh > DIR/_claude-cellar, with DIR in $fpath"
        ));
    }
}

//! The whole life of an installation on a machine with a `systemd --user`: sessions are taken in, a client appends
//! through restarts, kills and a log-out, the program is upgraded, and everything comes back as plain files. And the
//! service as the Nix modules declare it, in the steps of the tests that run on NixOS.
//!
//! The machine is a container that `tests/systemd/boot` starts, once for each script; what the scripts show is said
//! in them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

#[test]
fn sessions_outlive_restarts_kills_logins_upgrades_and_uninstalling() {
    boot(&[
        "1-install.sh",
        "2-appends.sh",
        "3-upgrade.sh",
        "4-uninstall.sh",
    ]);
}

#[test]
fn the_service_of_home_manager_keeps_sessions_until_it_is_disabled() {
    boot(&[
        "declared.sh home-manager enable",
        "declared.sh home-manager use",
        "declared.sh home-manager disable",
    ]);
}

#[test]
fn the_service_of_nixos_keeps_sessions_until_it_is_disabled() {
    boot(&[
        "declared.sh nixos enable",
        "declared.sh nixos use",
        "declared.sh nixos disable",
    ]);
}

fn boot(scripts: &[&str]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd");
    let mut boot = Command::new(directory.join("boot"));
    boot.arg(env!("CARGO_BIN_EXE_claude-cellar")).args(scripts);
    // SAFETY: one async-signal-safe call: should the test die, the machine is switched off.
    unsafe {
        boot.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        })
    };
    let output = boot.output().expect("bash");
    assert!(
        output.status.success(),
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

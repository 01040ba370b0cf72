//! The whole life of an installation on a machine with a `systemd --user`: sessions are taken in, a client appends
//! through restarts, kills and a log-out, the program is upgraded, and everything comes back as plain files.
//!
//! The machine is a container that `tests/systemd/boot` starts, once for each script; what the scripts show is said
//! in them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

#[test]
fn sessions_outlive_restarts_kills_logins_upgrades_and_uninstalling() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd");
    let mut boot = Command::new(directory.join("boot"));
    boot.arg(env!("CARGO_BIN_EXE_claude-cellar")).args(
        [
            "1-install.sh",
            "2-appends.sh",
            "3-upgrade.sh",
            "4-uninstall.sh",
        ]
        .map(|script| directory.join(script)),
    );
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

//! The cellar belongs to an ordinary user: mounting goes through fusermount3, a killed daemon's mount is cleared
//! without root, and permissions are a plain directory's. Run as root, these tests make a user for themselves.

mod common;

use common::{Mount, line};
use std::path::Path;
use std::process::{Command, Output};

/// A user who exists as long as the test.
struct User(String);

impl User {
    fn new(purpose: &str) -> User {
        let name = format!("cellar-{purpose}-{}", std::process::id());
        let done = Command::new("useradd")
            .args(["--no-create-home", "--shell", "/bin/sh", &name])
            .status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "useradd {name}: run this test as root"
        );
        User(name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.0).status();
    }
}

fn mount_as(user: &User, name: &str) -> Mount {
    let mut mount = Mount::prepare(name).owned_by(&user.0);
    mount.mount();
    mount
}

/// What a shell of the user does, inside the mount.
fn shell(mount: &Mount, script: &str) -> Output {
    let script = format!("cd {} && {script}", mount.path("").display());
    mount
        .command_of(Path::new("/bin/sh"))
        .args(["-c", &script])
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn an_ordinary_user_mounts_writes_and_unmounts() {
    let user = User::new("mount");
    let mount = mount_as(&user, "user");
    let (first, second) = (line("u", 0, 3_000), line("u", 1, 3_000));
    let text = |line: &[u8]| {
        String::from_utf8(line.to_vec())
            .unwrap()
            .trim_end()
            .to_string()
    };
    let script = format!(
        "mkdir p && printf '%s\\n' '{}' >>p/s.jsonl && printf '%s\\n' '{}' >>p/s.jsonl",
        text(&first),
        text(&second)
    );
    let output = shell(&mount, &script);
    assert!(output.status.success(), "{}", said(&output));
    let output = shell(&mount, "cat p/s.jsonl && stat -c %U p/s.jsonl");
    let want = [
        first.as_slice(),
        &second,
        format!("{}\n", user.0).as_bytes(),
    ]
    .concat();
    assert_eq!(output.stdout, want, "{}", said(&output));
    if mount.has_store() {
        let output = mount.run(&["umount"]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(!mount.mounted(), "unmounted");
        assert!(mount.store("p/s.jsonl.zst").exists() || mount.store("p/s.jsonl").exists());
    }
}

#[test]
fn an_ordinary_user_mounts_again_after_kill_9_without_a_manual_step() {
    let user = User::new("kill");
    let mut mount = mount_as(&user, "user-kill");
    let mut want = String::new();
    assert!(shell(&mount, "mkdir p").status.success());
    for round in 0..3 {
        let output = shell(&mount, &format!("echo line {round} >>p/s.jsonl"));
        assert!(output.status.success(), "{}", said(&output));
        want += &format!("line {round}\n");
        mount.kill9();
        assert!(
            mount.mounted() || !mount.has_store(),
            "kill -9 leaves a stale mount"
        );
        mount.mount();
        assert_eq!(
            said(&shell(&mount, "cat p/s.jsonl")),
            want,
            "after kill {round}"
        );
    }
    let (status, took) = mount.sigterm();
    assert!(
        status.success() && !mount.mounted(),
        "SIGTERM unmounts for a user too"
    );
    assert!(took.as_secs() < 1, "stopping took {took:?}");
}

#[test]
fn permissions_are_a_plain_directory_s() {
    let user = User::new("perm");
    let mount = mount_as(&user, "user-perm");
    let setup = "mkdir p locked && echo a >p/a.jsonl && echo b >p/b.jsonl && chmod 0 p/b.jsonl && chmod 0400 p/a.jsonl && echo c >locked/c.jsonl && chmod 0500 locked";
    let output = shell(&mount, setup);
    assert!(output.status.success(), "{}", said(&output));
    for refused in [
        "echo x >locked/new.jsonl",
        "mkdir locked/new",
        "rm -f locked/c.jsonl",
        "mv locked/c.jsonl p/",
        "ln p/a.jsonl locked/a.jsonl",
        "cat p/b.jsonl",
        "echo x >>p/a.jsonl",
        "truncate -s 0 p/a.jsonl",
    ] {
        let output = shell(&mount, refused);
        assert!(
            !output.status.success() && said(&output).contains("ermission denied"),
            "{refused}: {}",
            said(&output)
        );
    }
    assert!(
        said(&shell(&mount, "chown root p/a.jsonl")).contains("not permitted"),
        "only root gives files away"
    );
    let output = shell(
        &mount,
        "cat p/a.jsonl locked/c.jsonl && rm -f p/a.jsonl p/b.jsonl && ls p && chmod 0700 locked && rm -r locked",
    );
    assert!(
        output.status.success() && said(&output) == "a\nc\n",
        "{}",
        said(&output)
    );
}

#[test]
fn deleted_sessions_are_kept_and_restored_with_the_modes_they_had() {
    let user = User::new("trash");
    let mut mount = Mount::prepare("ordinary-trash")
        .owned_by(&user.0)
        .env("CLAUDE_CELLAR_TRASH_DAYS", "9");
    mount.mount();
    let id = "7a1e0000-0000-4000-8000-000000000001";
    let made = shell(
        &mount,
        &format!(
            "umask 022; mkdir -p p/{id}/subagents && echo x > p/{id}/subagents/a && \
             chmod 0711 p/{id} && echo y > p/{id}.jsonl && chmod 0640 p/{id}.jsonl && rm -rf p && ls"
        ),
    );
    assert_eq!(String::from_utf8_lossy(&made.stdout), "", "{made:?}");
    let restored = mount.run(&["trash", "restore", "7a"]);
    assert!(restored.status.success(), "{restored:?}");
    // The kernel may believe for a second that there is nothing.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let back = shell(
        &mount,
        &format!("cat p/{id}.jsonl p/{id}/subagents/a; stat -c %a p p/{id} p/{id}.jsonl"),
    );
    assert_eq!(
        String::from_utf8_lossy(&back.stdout),
        "y\nx\n755\n711\n640\n",
        "{back:?}"
    );
}

#[test]
fn a_session_that_its_owner_may_only_read_is_sealed_too() {
    let user = User::new("sealed");
    let mut mount = Mount::prepare("user-sealed").owned_by(&user.0);
    mount.mount();
    let output = shell(&mount, "mkdir p && seq 3000 >p/s.txt && chmod 0400 p/s.txt");
    assert!(output.status.success(), "{}", said(&output));
    if mount.has_store() {
        mount.sigterm();
        std::fs::rename(mount.store("p/s.txt"), mount.store("p/s.jsonl")).unwrap();
        mount.mount();
    }
    mount.seal_and_wait();
    let output = shell(&mount, "seq 3000 | cmp - p/s.jsonl && stat -c %a p/s.jsonl");
    assert_eq!(said(&output), "400\n");
}

#[test]
fn an_ordinary_user_adopts_what_lies_beneath() {
    let user = User::new("adopt");
    for across in [false, true] {
        let mut mount = Mount::prepare("user-adopt").seal_after(u32::MAX).adopting();
        if !mount.has_store() {
            return;
        }
        if across {
            mount = mount.beneath_on_tmpfs();
        }
        mount = mount.owned_by(&user.0);
        let write = "mkdir -p p/id/subagents p/empty && echo one > p/s.jsonl && echo a > p/id/subagents/a.jsonl && \
                     echo closed > p/closed.jsonl && chmod 0 p/closed.jsonl && echo read > p/read.jsonl && \
                     chmod 400 p/read.jsonl && ln -s s.jsonl p/link && mkfifo p/fifo && ln p/s.jsonl p/other.jsonl && \
                     touch -d @1600000000 p/read.jsonl p/empty";
        let list = "cat p/s.jsonl p/id/subagents/a.jsonl p/read.jsonl p/other.jsonl p/link; find . -mindepth 1 \
                    -printf '%P %M %n %u %l\\n' | sort; stat -c %Y p/read.jsonl; chmod 400 p/closed.jsonl && cat p/closed.jsonl; \
                    chmod 0 p/closed.jsonl";
        let done = shell(&mount, write);
        assert!(done.status.success(), "{}", said(&done));
        let want = said(&shell(&mount, list));
        assert!(want.contains("one\na\nread\none\none\n"), "{want}");
        mount.mount();
        assert_eq!(said(&shell(&mount, list)), want, "across: {across}");

        mount.kill9();
        // What the client does until somebody mounts again.
        let detached = mount
            .command_of(Path::new("/bin/fusermount3"))
            .arg("-uz")
            .arg(mount.path(""))
            .output()
            .unwrap();
        assert!(detached.status.success(), "{}", said(&detached));
        let more =
            "mkdir -p p && echo two >> p/s.jsonl && echo x > p/new.jsonl && chmod 0 p/new.jsonl";
        let done = shell(&mount, more);
        assert!(done.status.success(), "{}", said(&done));
        mount.mount();
        let done = shell(
            &mount,
            "cat p/s.jsonl; chmod 600 p/new.jsonl && cat p/new.jsonl",
        );
        assert_eq!(said(&done), "one\ntwo\nx\n", "across: {across}");
        let output = mount.run(&["umount"]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&shell(&mount, "ls -A")), "", "across: {across}");
    }
}

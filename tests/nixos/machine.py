# The common part of both test scripts.


def as_alice(command: str) -> str:
    return f"su -l alice -c 'export XDG_RUNTIME_DIR=/run/user/1000; {command}'"


def scenario(stage: str) -> None:
    with subtest(stage):
        machine.log(machine.succeed(as_alice(f'bash /etc/scenario/scenario.sh {stage} "{STORE}"')))


def log_in() -> None:
    machine.wait_until_tty_matches("1", "login: ")
    machine.send_chars("alice\n")
    machine.wait_until_tty_matches("1", "Password: ")
    machine.send_chars("alice\n")
    machine.wait_until_succeeds(as_alice("systemctl --user is-active claude-cellar.service"))


def reboot() -> None:
    machine.shutdown()
    machine.start()
    machine.wait_for_unit("multi-user.target")


machine.start()
machine.wait_for_unit("multi-user.target")
scenario("written-before")
log_in()
scenario("in-use")
scenario("recorded")
reboot()
log_in()
scenario("after-reboot")

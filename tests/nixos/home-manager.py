

def switch_to(name: str) -> None:
    machine.succeed(f"/run/booted-system/specialisation/{name}/bin/switch-to-configuration test")


def daemon() -> str:
    return machine.succeed(as_alice("systemctl --user show --property MainPID claude-cellar.service"))


with subtest("the configuration has installed the hooks of agentfs"):
    machine.succeed(as_alice("grep -F bin/agentfs .claude/settings.json"))

with subtest("a switch leaves a running service as it is"):
    before = daemon()
    switch_to("changed")
    unit = machine.succeed(as_alice("systemctl --user cat claude-cellar.service"))
    assert "CLAUDE_CELLAR_SEAL_AFTER=2" in unit, unit
    assert daemon() == before, "the switch restarted the service"
scenario("after-reboot")

switch_to("disabled")
machine.fail(as_alice("systemctl --user cat claude-cellar.service"))
scenario("disabled")

with subtest("not for a user without ~/.claude"):
    machine.succeed("systemctl start user@1001.service")
    shown = machine.succeed(
        "su -l bob -c 'XDG_RUNTIME_DIR=/run/user/1001 systemctl --user show claude-cellar.service'"
    )
    assert "ConditionResult=no" in shown, shown
    assert "ActiveState=inactive" in shown, shown

machine.succeed(as_alice("systemctl --user stop claude-cellar.service"))
scenario("disabled")

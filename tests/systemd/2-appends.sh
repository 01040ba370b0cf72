#!/usr/bin/env bash
# After a login the sessions are there, and what a client appends gets into its session whatever happens to the daemon.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

step 'at login'
[ "$(systemctl --user is-system-running --wait)" = running ] || fail 'a unit of the user failed at login'
well 'after a reboot'
same ~/original "$projects" 'the reboot changed sessions'

step 'a client appends'
cat >~/.config/systemd/user/client.service <<UNIT
[Unit]
Description=A client that appends

[Service]
ExecStart=/usr/bin/python3 "$scripts/client.py" write $live $client_log

[Install]
WantedBy=default.target
UNIT
systemctl --user daemon-reload
systemctl --user --quiet enable --now client.service
goes_on() {
    local before
    before=$(grep -c stored "$client_log" || true)
    within eval "[ \$(grep -c stored $client_log) -gt $((before + 10)) ]"
}
within test -s "$client_log"
goes_on

step 'restarts while it appends'
for _ in {1..10}; do
    # Not as many starts in ten seconds as make systemd give up.
    systemctl --user reset-failed
    before=$(main_pid)
    systemctl --user restart "$unit"
    serving || fail 'restart returned before the mount was there'
    [ "$(main_pid)" != "$before" ] || fail 'restart restarted nothing'
    sleep 0.1
done
goes_on
! grep '^unknown' "$client_log" || fail 'a restart in good order failed a write'

systemctl --user reset-failed
for round in 1 2; do
    step "kill -9 $round"
    before=$(main_pid)
    kill -9 "$before"
    within eval "serving && [ \$(main_pid) != $before ]"
    goes_on
done

step 'stop, and start when the client has written without the mount'
systemctl --user stop "$unit"
! mounted || fail 'stop left it mounted'
goes_on
[ -s "$live" ] || fail 'the client wrote nothing beneath the mount'
systemctl --user start "$unit"
goes_on

step 'the client stops'
systemctl --user stop client.service
grep '^#' "$client_log" | sort | uniq -c || true
python3 "$scripts/client.py" check "$live" "$client_log"

step 'and again from the store'
systemctl --user reset-failed
systemctl --user restart "$unit"
python3 "$scripts/client.py" check "$live" "$client_log"
systemctl --user stop "$unit"
[ -z "$(ls -A "$projects")" ] || fail "something is left beneath the mount: $(find "$projects")"
systemctl --user start "$unit"
"$cellar" verify

# The next boot starts the client beside the daemon; this one ends while both are at work and a file is open.
systemctl --user start client.service
systemd-run --user --quiet tail -f "$live"
goes_on

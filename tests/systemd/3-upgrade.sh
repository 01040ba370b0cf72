#!/usr/bin/env bash
# A client that starts with the login loses nothing, and an upgrade brings the new program into use.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

step 'at login, with a client that starts with it'
[ "$(systemctl --user is-system-running --wait)" = running ] || fail 'a unit of the user failed at login'
well 'after a reboot'
within eval "tail -n 1 $client_log | grep -q stored"
sleep 1

step 'an upgrade to another place'
cellar=~/new/bin/claude-cellar
mkdir -p ~/new/bin
cp /payload/claude-cellar "$cellar"
# It refuses while a client has a session open.
within "$cellar" install
well 'after an upgrade to another place'
runs "$cellar" || fail "the unit still runs $(readlink "/proc/$(main_pid)/exe")"
grep -q "^ExecStart=$cellar mount " "$unit_file" || fail 'the unit does not name the new program'

step 'an upgrade in place, as cargo does it'
cp /payload/claude-cellar ~/new/bin/next
printf '# another version\n' >>~/new/bin/next
mv ~/new/bin/next "$cellar"
within "$cellar" install
well 'after an upgrade in place'
runs "$cellar" || fail "the unit still runs $(readlink "/proc/$(main_pid)/exe")"

step 'the client has lost nothing'
systemctl --user disable --quiet --now client.service
grep '^#' "$client_log" | sort | uniq -c || true
python3 "$scripts/client.py" check "$live" "$client_log"

step 'the log'
log=~/.local/state/claude-cellar/cellar.log
! grep -E 'WARN|ERROR' $log | grep -v ': moved .* to .cellar/recovered/' || fail 'the log has other warnings than of what was set aside'

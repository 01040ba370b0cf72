#!/usr/bin/env bash
# The package's service starts at login; settings that it cannot hold are kept in one of the user's own.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

cellar=/usr/bin/claude-cellar

step 'at login'
[ "$(systemctl --user is-system-running --wait)" = running ] || fail 'a unit of the user failed at login'
well 'after a reboot'
same ~/original "$projects" 'a reboot changed sessions'

step 'install with a setting'
CLAUDE_CELLAR_TRASH_DAYS=30 claude-cellar install
well 'with a setting'
grep -qx 'Environment=CLAUDE_CELLAR_TRASH_DAYS=30' "$unit_file" || fail 'the setting is not kept'
grep -q "^ExecStart=$cellar mount " "$unit_file" || fail 'the service runs another program'
rm "$projects/-home-alice-one/00000001-0000-4000-8000-000000000000.jsonl"
CLAUDE_CELLAR_TRASH_DAYS=30 claude-cellar trash restore 00000001
claude-cellar install
grep -qx 'Environment=CLAUDE_CELLAR_TRASH_DAYS=30' "$unit_file" || fail 'a later install forgets the setting'

step 'uninstall --restore'
manifest "$projects" >~/last
claude-cellar uninstall --restore
same ~/last "$projects" 'the plain files are not the sessions'
[ -z "$(find ~/.config/systemd/user -name "$unit")" ] || fail 'the service is still enabled'
! mounted || fail 'it is still mounted'
! systemctl --user --quiet is-active "$unit" || fail 'the service is still active'

#!/usr/bin/env bash
# The service of the Debian package serves a user who installs it, and nobody else.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

cellar=/usr/bin/claude-cellar
packaged=/usr/lib/systemd/user/$unit
enabled=~/.config/systemd/user/default.target.wants/$unit

step 'the package alone does nothing'
[ "$(type -P claude-cellar)" = "$cellar" ] || fail 'the program is not on the path'
! systemctl --user --quiet is-enabled "$unit" || fail 'the service is enabled for all'
install -d -m 700 "$projects"
python3 "$scripts"/sessions.py "$projects"
manifest "$projects" >~/original
! mounted || fail 'something is mounted'
said=$(systemd-analyze --user verify "$packaged" 2>&1) || fail "the unit is wrong: $said"
[ -z "$said" ] || fail "of the unit, systemd says: $said"

step 'install'
claude-cellar install
well 'after install'
same ~/original "$projects" 'the mount does not show what was there'
[ ! -e "$unit_file" ] || fail 'it wrote a service of its own'
[ "$(readlink "$enabled")" = "$packaged" ] || fail 'the service of the package is not enabled'
runs "$cellar" || fail 'the unit runs another program'

step 'install again'
pid=$(main_pid)
claude-cellar install
[ "$(main_pid)" = "$pid" ] || fail 'the daemon was started again'

step 'uninstall and install again'
claude-cellar uninstall
! mounted || fail 'it is still mounted'
[ ! -e "$enabled" ] || fail 'the service is still enabled'
claude-cellar install
well 'after the second install'
same ~/original "$projects" 'uninstall and install changed sessions'

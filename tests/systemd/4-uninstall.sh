#!/usr/bin/env bash
# `uninstall` takes the unit away and keeps the store; with --restore, plain files are back as they were.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

cellar=~/new/bin/claude-cellar
gone() {
    [ ! -e "$unit_file" ] || fail "$unit_file is still there after $1"
    ! systemctl --user --quiet is-active "$unit" || fail "$unit is still active after $1"
    [ -z "$(find ~/.config/systemd/user -name "$unit")" ] || fail "$unit is still enabled after $1"
    [ "$(systemctl --user show --property LoadState --value "$unit")" = not-found ] || fail "systemd still knows $unit after $1"
    ! mounted || fail "it is still mounted after $1"
    ! pgrep -u alice -f 'claude-cellar mount' || fail "a daemon still runs after $1"
}

step 'at login'
[ "$(systemctl --user is-system-running --wait)" = running ] || fail 'a unit of the user failed at login'
well 'after a reboot'
runs "$cellar" || fail 'another program than the new one was started'
python3 "$scripts/client.py" check "$live" "$client_log"
manifest "$projects" >~/last
lost=$(sort ~/original | comm -23 - <(sort ~/last))
[ -z "$lost" ] || fail "of the sessions of the beginning, this has changed: $lost"

step 'uninstall'
"$cellar" uninstall
gone uninstall
[ -z "$(ls -A "$projects")" ] || fail 'uninstall left something in the mountpoint'
stored=$store/${live#"$projects"/}
if [ -e "$stored" ]; then cp "$stored" ~/from-store; else zstd -dcq "$stored.zst" >~/from-store; fi
python3 "$scripts/client.py" check ~/from-store "$client_log"

step 'install again'
"$cellar" install
well 'after uninstall and install'
same ~/last "$projects" 'uninstall and install changed sessions'

step 'uninstall --restore'
"$cellar" uninstall --restore
gone 'uninstall --restore'
same ~/last "$projects" 'the plain files are not the sessions'

step 'uninstall where nothing is installed'
"$cellar" uninstall || echo "status $?"
same ~/last "$projects" 'the second uninstall changed plain files'

step 'and once more, with the store still there'
"$cellar" install
well 'after everything'
same ~/last "$projects" 'install over a kept store changed sessions'

#!/usr/bin/env bash
# Runs the scenario in a machine of `boot`: declared.sh MODULE BOOT, for the boots `enable`, `use` and `disable`. The
# unit is the one that the Nix module is expected to declare, linked to as home-manager does it.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

case $1 in
home-manager) store=~/'100%used sessions' ;;
nixos) store=~/sessions ;;
esac
package=~/package
export PATH=$package/bin:$PATH CLAUDE_CELLAR_STORE_DIR=$store

scenario() { bash "$scripts/scenario.sh" "$1" "$store"; }

case $2 in
enable)
    scenario written-before
    mkdir -p $package/bin $package/units ~/.config/systemd/user/default.target.wants
    cp /payload/{claude-cellar,agentfs} $package/bin/
    sed "s|@claude-cellar@|$package|" "/payload/units/$1.service" >$package/units/$unit
    for place in ~/.config/systemd/user ~/.config/systemd/user/default.target.wants; do
        ln -s $package/units/$unit $place/
    done
    said=$(systemd-analyze --user verify $package/units/$unit 2>&1) || fail "the unit is wrong: $said"
    [ -z "$said" ] || fail "of the unit, systemd says: $said"
    ;;
use)
    within systemctl --user --quiet is-active $unit
    scenario in-use
    scenario recorded
    ;;
disable)
    within systemctl --user --quiet is-active $unit
    scenario after-reboot
    # What a switch of home-manager does.
    systemctl --user stop $unit
    rm ~/.config/systemd/user/$unit ~/.config/systemd/user/default.target.wants/$unit
    systemctl --user daemon-reload
    scenario disabled
    ;;
esac

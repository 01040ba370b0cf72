# What the scripts of this directory share. They run as alice, in the machine that `boot` starts or in one of NixOS.
# shellcheck shell=bash disable=SC2034
set -Eeuo pipefail
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND"' ERR

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
projects=~/.claude/projects
store=~/.local/share/claude-cellar/store
unit=claude-cellar.service
unit_file=~/.config/systemd/user/$unit
# Where cargo puts it; nothing depends on the search path.
cellar=~/.cargo/bin/claude-cellar
# The session that the client of client.sh writes, and what it says of that.
live=$projects/-home-alice-live/5e550000-0000-4000-8000-000000000001.jsonl
client_log=~/client.log

step() { printf '== %s\n' "$*"; }

fail() {
    printf 'FAILED: %s\n' "$*"
    exit 1
}

# Every file, directory and link below a directory: contents, times and modes.
manifest() {
    (
        cd "$1"
        find . -mindepth 1 -type d -printf '%p %m\n' | sort
        find . -type l -printf '%p -> %l\n' | sort
        find . -type f -printf '%p %m %s %T@\n' | sort
        find . -type f -print0 | sort -z | xargs -0 -r sha256sum
    )
}

# The manifest of a directory is the one in a file.
same() {
    diff -u "$1" <(manifest "$2") || fail "$3"
}

# A condition comes true within ten seconds.
within() {
    local tries
    for tries in {1..100}; do
        if "$@"; then
            return
        fi
        sleep 0.1
    done
    fail "after $((tries / 10)) s still not: $*"
}

main_pid() { systemctl --user show --property MainPID --value "$unit"; }

mounted() { [ "$(findmnt --noheadings --output FSTYPE --mountpoint "$projects")" = fuse.claude-cellar ]; }

serving() { mounted && stat -f "$projects" >/dev/null 2>&1 && systemctl --user --quiet is-active "$unit"; }

# The unit is well, and the sessions are where they belong.
well() {
    systemctl --user --quiet is-active "$unit" || fail "$unit is not active $1"
    systemctl --user --quiet is-enabled "$unit" || fail "$unit is not enabled $1"
    mounted || fail "nothing is mounted $1"
    "$cellar" status | tee ~/status || fail "status is not content $1"
    ! grep -q '^warning' ~/status || fail "status warns $1"
}

# The program that runs is this file.
runs() {
    local pid
    pid=$(main_pid)
    cmp -s "$1" "/proc/$pid/exe" && [ "$(readlink "/proc/$pid/exe")" = "$1" ]
}

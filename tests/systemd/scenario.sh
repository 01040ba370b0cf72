#!/usr/bin/env bash
# The life of a service that is declared, as alice sees it: scenario.sh STAGE STORE
#
# What comes between the stages is up to who runs them: tests/nixos on NixOS, declared.sh in the container of `boot`.
# The stages are `written-before` the service has ever run, `in-use`, `recorded`, `after-reboot` and `disabled`. The service has
# STORE, seals after a second, and claude-cellar, agentfs and git are on the search path and told of the same store.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

store=$2
default_store=~/.local/share/claude-cellar/store
session=$projects/-home-alice-one/00000002-0000-4000-8000-000000000000.jsonl

# Sums and names of all files below a directory; a compressed session counts as what it decodes to, and an empty file
# holds nothing to decode.
contents() {
    (
        cd "$1"
        find . -name .cellar -prune -o -type f -print | while read -r file; do
            case $file in
            *.jsonl.zst) printf '%s %s\n' "$({ [ ! -s "$file" ] || zstd -dcq "$file"; } | sha256sum)" "${file%.zst}" ;;
            *) printf '%s %s\n' "$(sha256sum <"$file")" "$file" ;;
            esac
        done | sort
    )
}

append() {
    printf '{"type":"user","text":"%s"}\n' "$1" | tee -a ~/plain >>"$session"
}

up() {
    local status
    serving || fail "$unit is not up $1: $(systemctl --user status "$unit" 2>&1)"
    status=$(claude-cellar status) || fail "status is not content $1: $status"
    ! grep '^warning' <<<"$status" || fail "status warns $1"
    grep -F "$store" <<<"$status" || fail "status names another store $1: $status"
    [ ! -e "$default_store" ] || fail "the default store is used $1"
}

# No session lies in the store as it was written.
compressed() {
    [ -z "$(find "$store" -mindepth 2 -maxdepth 2 -name .cellar -prune -o -name '*.jsonl' -print)" ]
}

readable_without() {
    diff -u <(contents "$projects") <(contents "$store") || fail "the store does not hold what the mount shows $1"
}

case $1 in
written-before)
    step 'sessions are there before the service'
    ! mounted || fail 'it is mounted already'
    [ ! -e "$store" ] || fail 'there is a store already'
    install -d -m 700 "$(dirname "$projects")" "$projects"
    python3 "$scripts/sessions.py" "$projects"
    manifest "$projects" >~/expected
    contents "$projects" >~/sums
    ;;

in-use)
    step 'the service has taken them in'
    up 'at login'
    same ~/expected "$projects" 'the mount does not show what was there'
    cp "$session" ~/plain

    step 'an append survives a restart'
    append 'before a restart'
    systemctl --user restart "$unit"
    up 'after a restart'
    cmp "$session" ~/plain || fail 'a restart changed a session'

    step 'an append survives kill -9'
    append 'before kill -9'
    killed=$(main_pid)
    kill -9 "$killed"
    within eval "serving && [ \$(main_pid) != $killed ]"
    up 'after kill -9'
    cmp "$session" ~/plain || fail 'kill -9 changed a session'
    append 'after kill -9'
    cmp "$session" ~/plain || fail 'the append after kill -9 is not there'

    step 'the store is of zstd files, and of bundles as they are'
    kill -USR1 "$(main_pid)"
    within compressed
    readable_without 'in use'
    ! find "$store" -mindepth 3 -name .cellar -prune -o -name '*.zst' -print | grep . || fail 'a bundle is compressed'
    find "$store" -name '*.jsonl.zst' -print | wc -l
    # One session has grown, the others are what they were.
    changed=$(diff ~/sums <(contents "$projects") | grep '^[<>]' | grep -vF "$(basename "$session")" || true)
    [ -z "$changed" ] || fail "sessions have changed: $changed"
    manifest "$projects" >~/expected
    contents "$projects" >~/sums
    ;;

recorded)
    step 'agentfs records what an agent does, and says why'
    app=~/app
    transcript=$projects/-home-alice-app/a9e70000-0000-4000-8000-000000000001.jsonl
    mkdir -p "$app" "${transcript%/*}"
    cd "$app"
    git init --quiet
    echo 'fn main() {}' | tee main.rs >README
    find .git -type f -exec sha256sum {} + >~/git
    agentfs init
    # Nothing new where the configuration has done it.
    agentfs install-hooks
    python3 "$scripts/agent.py" "$app" "$transcript"
    agentfs log
    [ "$(agentfs log --json | grep -c '"tool": "\(Edit\|Bash\)"')" = 2 ] || fail 'not every call has its checkpoint'
    told=$(agentfs blame main.rs:2)
    for said in 'by Edit tool' 'make it robust, please' 'I take the panic out.'; do
        grep -F "$said" <<<"$told" || fail "blame does not say \"$said\": $told"
    done
    agentfs undo
    [ "$(cat README)" = 'fn main() {}' ] || fail 'undo did not take the last call back'
    agentfs restore v1
    [ "$(cat main.rs)" = 'fn main() {}' ] || fail 'restore did not bring the first state back'
    agentfs verify
    sha256sum --quiet --check ~/git || fail 'the repository of alice was changed'

    step 'it reads the transcript from the store alone too'
    kill -USR1 "$(main_pid)"
    within compressed
    CLAUDE_CONFIG_DIR=~/elsewhere agentfs blame main.rs@v2:2 | grep -F 'I take the panic out.'
    manifest "$projects" >~/expected
    contents "$projects" >~/sums
    ;;

after-reboot)
    step 'everything is there after a reboot'
    up 'after a reboot'
    same ~/expected "$projects" 'the reboot changed sessions'
    cmp "$session" ~/plain || fail 'the reboot lost an append'
    readable_without 'after a reboot'
    ;;

disabled)
    step 'a disabled service leaves the store'
    ! systemctl --user --quiet is-active "$unit" || fail "$unit is still active"
    ! mounted || fail 'it is still mounted'
    [ -z "$(ls -A "$projects")" ] || fail "something lies in the mountpoint: $(find "$projects")"
    ! pgrep -u "$UID" -f 'claude-cellar mount' || fail 'a daemon still runs'
    diff -u ~/sums <(contents "$store") || fail 'the store has not all sessions'
    ;;

*) fail "there is no stage $1" ;;
esac

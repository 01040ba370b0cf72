#!/usr/bin/env bash
# `install` takes a user's sessions in as they are, and can be run again.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

step 'a user with sessions'
mkdir -p ~/.cargo/bin
cp /payload/claude-cellar "$cellar"
install -d -m 700 "$projects"
python3 "$scripts/sessions.py" "$projects"
manifest "$projects" >~/original
du -sh --apparent-size "$projects"

step 'install --dry-run changes nothing'
everything() { find ~ "$XDG_RUNTIME_DIR" \( -path ~/everything -o -path "$XDG_RUNTIME_DIR/systemd" \) -prune -o -printf '%p %y %m %s %T@ %l\n' | sort; }
everything >~/everything
everything >~/everything
"$cellar" install --dry-run
diff -u ~/everything <(everything) || fail 'install --dry-run changed something'

step 'install'
"$cellar" install
well 'after install'
same ~/original "$projects" 'the mount does not show what was there'
cat "$unit_file"
for line in Type=notify Restart=on-failure WantedBy=default.target; do
    grep -qx "$line" "$unit_file" || fail "the unit has no $line"
done
said=$(systemd-analyze --user verify "$unit_file" 2>&1) || fail "the unit is wrong: $said"
[ -z "$said" ] || fail "of the unit, systemd says: $said"
runs "$cellar" || fail 'the unit runs another program'

step 'what is stored'
find "$store" -name .cellar -prune -o -type f -print | sort
find "$store" -mindepth 1 -name '*.jsonl' -o -name '*.jsonl.zst' | grep -q . || fail 'the store holds no session'

step 'install again'
"$cellar" install
well 'after the second install'
same ~/original "$projects" 'the second install changed sessions'

//! What `stats` tells of a store, mounted or not.

mod cellar;
mod common;

use cellar::Home;
use claude_cellar::frames::Encoder;
use claude_cellar::rewrite::Builder;
use common::{Mount, corpus, json_number, rng::Rng};
use std::fs::{self, File};
use std::path::PathBuf;

struct Store {
    home: Home,
    dir: PathBuf,
}

impl Store {
    fn new() -> Store {
        let home = Home::new();
        let dir = home.dir.join(".local/share/claude-cellar/store");
        Store { home, dir }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Puts a sealed session there and returns how large it is stored.
    fn seal(&self, name: &str, bytes: &[u8]) -> u64 {
        self.put(name, b"");
        let mut options = File::options();
        let file = options.read(true).write(true).open(self.dir.join(name));
        let (mut builder, mut encoder) = (Builder::new(file.as_ref().unwrap()), Encoder::new(3));
        builder.add(encoder.as_mut().unwrap(), bytes).unwrap();
        builder.seal().unwrap();
        builder.ends().stored
    }

    fn run(&self, line: &str) -> String {
        let ran = self.home.run(line).ends(0);
        assert_eq!(ran.err, "");
        ran.out
    }
}

#[test]
fn every_project_has_a_line_and_bundles_are_told_apart() {
    let store = Store::new();
    let one = store.seal("-p/a.jsonl.zst", &[b'a'; 300_000]);
    let two = store.seal("-q/b.jsonl.zst", &[b'b'; 100_000]);
    store.put("-q/c.jsonl", &[b'c'; 50_000]);
    store.put("-q/memory/MEMORY.md", &[b'm'; 100]);
    store.put("-p/a/subagents/agent-1.jsonl", &[b'x'; 10_000]);
    store.put("-p/a/subagents/agent-1.meta.json", b"{}");
    store.put("-p/a/tool-results/1.txt", &[b't'; 1000]);
    let inner = store.seal("-p/a/subagents/agent-2.jsonl.zst", &[b'y'; 20_000]);
    store.put("sessions-index.json", b"{}");
    store.put(".cellar/trash/1/-p/z.jsonl", b"gone\n");

    let json = store.run("stats --json");
    let stored = one + two + 50_000;
    let compressed = 10_000 * (one + two) / 400_000;
    for (after, field, value) in [
        ("\"name\":\"-q\"", "sessions", 2),
        ("\"name\":\"-q\"", "original_bytes", 150_000),
        ("\"name\":\"-q\"", "stored_bytes", two + 50_000),
        ("\"name\":\"-q\"", "bundle_bytes", 100),
        ("\"name\":\"-p\"", "sessions", 1),
        ("\"name\":\"-p\"", "bundle_bytes", 11_002 + inner),
        ("\"total\"", "sessions", 3),
        ("\"total\"", "original_bytes", 450_000),
        ("\"total\"", "stored_bytes", stored),
        ("\"total\"", "bundle_bytes", 11_102 + inner),
        ("\"total\"", "unknown", 0),
        ("\"bundles\"", "stored_bytes", 11_102 + inner),
        ("\"bundles\"", "plain_jsonl_bytes", 10_000),
        ("\"bundles\"", "compressed_jsonl_original_bytes", 20_000),
        ("\"bundles\"", "compressed_jsonl_bytes", inner),
        ("\"bundles\"", "other_bytes", 1_102),
        ("\"bundles\"", "estimated_saving_bytes", 10_000 - compressed),
    ] {
        let rest = json.split_once(after).unwrap().1;
        assert_eq!(json_number(rest, field), Some(value), "{field} in {json}");
    }
    assert!(json.starts_with("{\"by\":\"project\",\"rows\":[{\"name\":\"-q\","));

    let text = store.run("stats");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "  ORIGINAL      STORED    RATIO     BUNDLES  PROJECT"
    );
    assert!(lines[1].ends_with("       100 B  -q"), "{text}");
    assert!(lines[2].ends_with("  -p"), "{text}");
    assert!(lines[3].ends_with("  TOTAL of 3 sessions"), "{text}");
    assert!(text.contains("9.8 KiB of plain .jsonl files"), "{text}");
    assert!(text.contains("an estimate"), "{text}");
}

#[test]
fn by_session_a_bundle_belongs_to_its_session() {
    let store = Store::new();
    store.put("-p/a.jsonl", &[b'a'; 300]);
    store.put("-p/a/subagents/agent-1.jsonl", &[b'x'; 2000]);
    store.put("-p/b.jsonl", &[b'b'; 1000]);
    store.put("-p/gone/tool-results/1.txt", &[b't'; 10]);
    fs::create_dir(store.dir.join("-p/memory")).unwrap();
    let expected = "  ORIGINAL      STORED    RATIO      BUNDLE  SESSION
     300 B       300 B     1.0x     2.0 KiB  -p/a.jsonl
    1000 B      1000 B     1.0x         0 B  -p/b.jsonl
       0 B         0 B        -        10 B  -p/gone/
   1.3 KiB     1.3 KiB     1.0x     2.0 KiB  TOTAL of 2 sessions
";
    let text = store.run("stats --by session");
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("once a session is sealed"), "{text}");
    let json = store.run("stats --by session --json");
    assert!(json.contains("\"estimated_saving_bytes\":null"), "{json}");
}

#[test]
fn without_a_store_there_is_nothing_to_save() {
    let store = Store::new();
    let text = store.run("stats");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.ends_with("TOTAL of 0 sessions\n"), "{text}");
}

#[test]
fn foreign_files_are_counted_by_their_headers_and_not_decoded() {
    let store = Store::new();
    let bytes = vec![b'z'; 40_000];
    // The size is known where the frame says it; the bytes need not decode.
    let mut known = common::foreign::old_release(&bytes);
    let last = known.len() - 1;
    known[last] ^= 1;
    store.put("-p/known.jsonl.zst", &known);
    let unknown = common::zstd(&["-3", "--no-content-size"], &bytes);
    store.put("-p/unknown.jsonl.zst", &unknown);
    let json = store.run("stats --json");
    let total = json.split_once("\"total\"").unwrap().1;
    assert_eq!(
        json_number(total, "original_bytes"),
        Some(40_000 + unknown.len() as u64)
    );
    assert_eq!(json_number(&json, "unknown"), Some(1));
    let text = store.run("stats");
    assert!(text.contains("The size of 1 session is unknown"), "{text}");
}

#[test]
fn the_estimate_is_near_what_compressing_bundles_gives() {
    let estimated = |mount: &Mount| {
        let json = mount.run(&["stats", "--json"]);
        let json = String::from_utf8(json.stdout).unwrap();
        let of = |field| json_number(&json, field).unwrap();
        (of("estimated_saving_bytes"), of("compressed_jsonl_bytes"))
    };
    let mut mount = Mount::start_unsealing("estimate");
    if !mount.has_store() {
        return;
    }
    fs::create_dir_all(mount.path("p/u/subagents")).unwrap();
    let mut rng = Rng::new(5);
    for n in 0..4 {
        let data = corpus::session(&mut rng, 300_000);
        fs::write(mount.path(format!("p/{n}.jsonl")), data).unwrap();
    }
    let inner = corpus::session(&mut rng, 200_000);
    let agent = mount.path("p/u/subagents/agent-1.jsonl");
    fs::write(&agent, &inner).unwrap();
    mount.seal_and_wait();
    let (saving, none) = estimated(&mount);
    assert_eq!(none, 0);

    // With the daemon down it says the same.
    mount.sigterm();
    assert_eq!(estimated(&mount), (saving, 0));

    mount = mount.env("CLAUDE_CELLAR_BUNDLES", "compress");
    mount.mount();
    mount.seal_and_wait();
    let (left, compressed) = estimated(&mount);
    assert_eq!(left, 0);
    let saved = inner.len() as u64 - compressed;
    assert!(
        saved.abs_diff(saving) < saved / 5,
        "estimated {saving}, saved {saved}"
    );
}

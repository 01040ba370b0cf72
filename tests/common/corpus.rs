//! A `projects` tree to run tests on: the real one beside the repository, or a generated one of the same shape.

use super::rng::Rng;
use super::sys;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unpack or generate the tree below `directory` and give its path.
pub fn unpack(directory: &Path) -> PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/projects.tar.zst");
    let projects = directory.join("projects");
    if archive.exists() {
        let done = Command::new("tar")
            .arg("--zstd")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(directory)
            .status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "tar --zstd -xf {}",
            archive.display()
        );
    } else {
        generate(&projects);
    }
    projects
}

/// Sessions of every size and damage that real ones have, bundles, and what else lies beside them.
pub fn generate(projects: &Path) {
    let mut rng = Rng::new(2197);
    let put = |name: String, data: Vec<u8>, rng: &mut Rng| {
        let path = projects.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, data).unwrap();
        fs::set_permissions(
            &path,
            fs::Permissions::from_mode(*rng.pick(&[0o600, 0o600, 0o644])),
        )
        .unwrap();
        sys::set_mtime(
            &path,
            1_700_000_000 + rng.below(50_000_000) as i64,
            rng.below(1_000_000_000) as i64,
        )
        .unwrap();
    };
    for project in ["-home-user-alpha", "-home-user-beta", "-tmp-x"] {
        for size in [300, 5_000, 40_000, 250_000, 900_000] {
            let id = format!(
                "{:08x}-0000-4000-8000-{:012x}",
                rng.next() as u32,
                rng.below(1 << 48)
            );
            let session = session(&mut rng, size);
            put(format!("{project}/{id}.jsonl"), session, &mut rng);
            let agent = self::session(&mut rng, size / 3);
            put(
                format!("{project}/{id}/subagents/agent-{size}.jsonl"),
                agent,
                &mut rng,
            );
            put(
                format!("{project}/{id}/subagents/agent-{size}.meta.json"),
                b"{\"agentType\":\"x\"}".to_vec(),
                &mut rng,
            );
            put(
                format!("{project}/{id}/tool-results/toolu_{size}.txt"),
                rng.bytes(2_000),
                &mut rng,
            );
        }
        put(
            format!("{project}/memory/MEMORY.md"),
            b"- remember\n".to_vec(),
            &mut rng,
        );
        put(
            format!("{project}/sessions-index.json"),
            b"{\"version\":1}".to_vec(),
            &mut rng,
        );
        put(
            format!("{project}/agent-0badcafe.jsonl"),
            b"".to_vec(),
            &mut rng,
        );
    }
    let base = session(&mut rng, 30_000);
    let damaged: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"{".to_vec(),
        b"\n".to_vec(),
        base[..base.len() - 200].to_vec(),
        [b"\xEF\xBB\xBF".as_slice(), &base].concat(),
        [base.as_slice(), &[0; 4096], &base].concat(),
        [base.as_slice(), b"{\"a\":\"\xff\xfe\xc0\"}\r\n\n\n", &base].concat(),
        b"\x28\xB5\x2F\xFD is how zstd begins, and this is text\n".to_vec(),
        [base.as_slice(), &super::line("long", 1, 600_000), &base].concat(),
        rng.bytes(100_000),
    ];
    for (number, data) in damaged.into_iter().enumerate() {
        put(
            format!("-derived-damaged/{number:08x}-0000-4000-8000-000000000000.jsonl"),
            data,
            &mut rng,
        );
    }
}

/// About `size` bytes of lines as a client writes them.
pub fn session(rng: &mut Rng, size: usize) -> Vec<u8> {
    let mut data = Vec::new();
    while data.len() < size {
        let (parent, id) = (rng.next(), rng.next());
        data.extend_from_slice(
            format!(
                "{{\"parentUuid\":\"{parent:016x}\",\"isSidechain\":false,\"userType\":\"external\",\"cwd\":\"/home/user/alpha\",\
                 \"version\":\"2.1.197\",\"type\":\"assistant\",\"uuid\":\"{id:016x}\",\"message\":{{\"role\":\"assistant\",\"content\":\""
            )
            .as_bytes(),
        );
        let length = 100 + rng.below(4_000) as usize;
        rng.words(&mut data, length);
        data.extend_from_slice(b"\"}}\n");
    }
    data
}

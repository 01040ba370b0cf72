//! Random changes to a directory, of every kind that a working directory sees.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tree;
use crate::rng::Rng;

/// Permissions that only root can work under are left out for others.
const MODES: [u32; 12] = [
    0o600, 0o400, 0o777, 0o444, 0o755, 0o711, 0o640, 0o500, 0o700, 0o000, 0o4755, 0o222,
];
const DIR_MODES: [u32; 8] = [0o700, 0o755, 0o555, 0o777, 0o500, 0o2775, 0o1777, 0o000];
const FIRST_UNREADABLE: [usize; 2] = [9, 5];

pub struct Edits<'a> {
    pub dir: &'a Path,
    pub rng: Rng,
    /// Whether permissions bind who runs the program.
    pub bound: bool,
}

impl Edits<'_> {
    /// Something changes; which kind is chosen at random.
    pub fn one(&mut self) {
        match self.rng.below(22) {
            0..4 => self.new_file(),
            4..7 => self.edit(),
            7..9 => self.same_size(),
            9..11 => self.remove(),
            11..13 => self.rename(),
            13..15 => self.replace_by_other_kind(),
            15 => self.new_link(),
            16 => self.new_dir(),
            17..19 => self.chmod(),
            19 => self.repository(),
            20 => self.copy(),
            _ => self.replace_atomically(),
        }
    }

    fn name(&mut self) -> Vec<u8> {
        let strange: [&[u8]; 24] = [
            b"two\nlines",
            b"quote\"d",
            b"it's",
            b"at@v1",
            b"co:lon",
            b"-rf",
            b"--",
            b" sp ace ",
            b"back\\slash",
            b"\xff\xfe\x80",
            "é\u{200c}".as_bytes(),
            b"tab\there",
            b"*",
            b"[a-z]?",
            b":(top)x",
            b"$(id)",
            b".gitignore",
            b".gitattributes",
            b".gitkeep",
            b".git-not",
            b"a.b",
            b"a-b",
            b"a0",
            b"\x01\x7f",
        ];
        match self.rng.below(10) {
            0..5 => format!("{}", (b'a' + self.rng.below(6) as u8) as char).into_bytes(),
            5..8 => self.rng.pick(&strange).to_vec(),
            8 => {
                let byte = b'k' + self.rng.below(3) as u8;
                vec![byte; 255]
            }
            _ => format!("file{}.txt", self.rng.below(30)).into_bytes(),
        }
    }

    fn content(&mut self) -> Vec<u8> {
        let mut bytes = match self.rng.below(12) {
            0 => Vec::new(),
            1 => b"one\r\ntwo\r\nthree\n".to_vec(),
            2 => b"\0\x01binary\0".to_vec(),
            3 => b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n".to_vec(),
            4 => b"* text=auto eol=crlf\n*.txt filter=lfs diff=lfs merge=lfs -text ident\n".to_vec(),
            5 => b"*\n!keep\n".to_vec(),
            6 => b"$Id$ no newline at the end".to_vec(),
            7 if self.rng.chance(20) => {
                let length = (1 << 20) + self.rng.below(700_000) as usize;
                self.rng.bytes(length)
            }
            _ => {
                let length = self.rng.below(3_000) as usize;
                let mut text = Vec::new();
                self.rng.words(&mut text, length);
                text
            }
        };
        if self.rng.chance(50) {
            bytes.extend_from_slice(format!("{}\n", self.rng.next()).as_bytes());
        }
        bytes
    }

    /// Everything there is, without what is in repositories' own directories.
    fn all(&self, wanted: impl Fn(&tree::Item) -> bool) -> Vec<PathBuf> {
        let tree = tree::read(self.dir);
        let found = tree.iter().filter(|(_, item)| wanted(item));
        found.map(|(path, _)| tree::at(self.dir, path)).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.all(|item| matches!(item, tree::Item::File(..)))
    }

    fn pick(&mut self, from: Vec<PathBuf>) -> Option<PathBuf> {
        let at = self.rng.below(from.len() as u64) as usize;
        from.into_iter().nth(at)
    }

    fn some_dir(&mut self) -> PathBuf {
        let mut dirs = self.all(|item| matches!(item, tree::Item::Dir(_)));
        dirs.push(self.dir.to_owned());
        self.pick(dirs).unwrap()
    }

    /// A path where nothing is yet, sometimes deep down.
    fn vacancy(&mut self) -> Option<PathBuf> {
        let mut dir = self.some_dir();
        let deeper = if self.rng.chance(10) { 12 } else { 2 };
        for _ in 0..self.rng.below(deeper) {
            dir = dir.join(std::ffi::OsStr::from_bytes(&self.name()));
            if dir.as_os_str().len() > 3_000 || dir.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
                return None;
            }
        }
        fs::create_dir_all(&dir).unwrap();
        let place = dir.join(std::ffi::OsStr::from_bytes(&self.name()));
        place.symlink_metadata().is_err().then_some(place)
    }

    fn new_file(&mut self) {
        if let Some(place) = self.vacancy() {
            fs::write(&place, self.content()).unwrap();
            if self.rng.chance(30) {
                self.chmod_one(&place);
            }
        }
    }

    fn edit(&mut self) {
        let files = self.files();
        let Some(file) = self.pick(files) else { return };
        match self.rng.below(3) {
            0 => fs::write(file, self.content()).unwrap(),
            1 => {
                let more = self.content();
                let mut open = fs::File::options().append(true).open(file).unwrap();
                open.write_all(&more).unwrap();
            }
            _ => {
                let open = fs::File::options().write(true).open(file).unwrap();
                let length = open.metadata().unwrap().len();
                open.set_len(self.rng.below(length + 1)).unwrap();
            }
        }
    }

    /// Only the content tells, or not even the time of the last change.
    fn same_size(&mut self) {
        let files = self.files();
        let Some(file) = self.pick(files) else { return };
        let meta = file.metadata().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let Some(byte) = bytes.last_mut() else { return };
        *byte = byte.wrapping_add(1);
        fs::write(&file, bytes).unwrap();
        if self.rng.chance(50) {
            let open = fs::File::options().write(true).open(&file).unwrap();
            open.set_modified(meta.modified().unwrap()).unwrap();
        }
    }

    fn remove(&mut self) {
        let all = self.all(|_| true);
        let Some(path) = self.pick(all) else { return };
        remove(&path);
    }

    fn rename(&mut self) {
        let all = self.all(|_| true);
        let (Some(from), Some(to)) = (self.pick(all), self.vacancy()) else {
            return;
        };
        if !to.starts_with(&from) {
            fs::rename(from, to).unwrap();
        }
    }

    fn replace_by_other_kind(&mut self) {
        let all = self.all(|_| true);
        let Some(path) = self.pick(all) else { return };
        remove(&path);
        match self.rng.below(4) {
            0 => fs::write(&path, self.content()).unwrap(),
            1 => self.link(&path),
            2 => fs::create_dir(&path).unwrap(),
            _ => {
                fs::create_dir(&path).unwrap();
                let below = path.join(std::ffi::OsStr::from_bytes(&self.name()));
                fs::write(below, self.content()).unwrap();
            }
        }
    }

    fn link(&mut self, place: &Path) {
        let target: PathBuf = match self.rng.below(5) {
            0 => "nowhere at all".into(),
            1 => "/etc/passwd".into(),
            2 => "..".into(),
            3 => self.some_dir(),
            _ => std::ffi::OsStr::from_bytes(&self.name()).into(),
        };
        symlink(target, place).unwrap();
    }

    fn new_link(&mut self) {
        if let Some(place) = self.vacancy() {
            self.link(&place);
        }
    }

    fn new_dir(&mut self) {
        if let Some(place) = self.vacancy() {
            fs::create_dir(&place).unwrap();
            if self.rng.chance(40) {
                self.chmod_one(&place);
            }
        }
    }

    fn chmod(&mut self) {
        let all = self.all(|item| !matches!(item, tree::Item::Link(_)));
        if let Some(path) = self.pick(all) {
            self.chmod_one(&path);
        }
    }

    fn chmod_one(&mut self, path: &Path) {
        let (modes, unreadable) = match path.is_dir() {
            true => (&DIR_MODES[..], FIRST_UNREADABLE[1]),
            false => (&MODES[..], FIRST_UNREADABLE[0]),
        };
        let choice = if self.bound { unreadable } else { modes.len() };
        let mode = modes[self.rng.below(choice as u64) as usize];
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A repository in the project: with commits, without any, or a submodule's `.git` file.
    fn repository(&mut self) {
        let Some(place) = self.vacancy() else { return };
        fs::create_dir(&place).unwrap();
        fs::write(place.join("inside"), self.content()).unwrap();
        match self.rng.below(3) {
            0 => fs::write(place.join(".git"), "gitdir: ../.git/modules/x\n").unwrap(),
            kind => {
                git(&place, &["init", "-q"]);
                if kind == 1 {
                    git(&place, &["add", "-A"]);
                    let who = [
                        "-c",
                        "user.name=a",
                        "-c",
                        "user.email=a@b",
                        "-c",
                        "gc.auto=0",
                    ];
                    git(&place, &[&who[..], &["commit", "-qm", "x"]].concat());
                }
            }
        }
    }

    fn copy(&mut self) {
        let files = self.files();
        if let (Some(from), Some(to)) = (self.pick(files), self.vacancy()) {
            fs::copy(from, to).unwrap();
        }
    }

    /// As editors save.
    fn replace_atomically(&mut self) {
        let files = self.files();
        let Some(file) = self.pick(files) else { return };
        let new = self.dir.join(".being-saved~");
        fs::write(&new, self.content()).unwrap();
        fs::rename(new, file).unwrap();
    }
}

fn remove(path: &Path) {
    match path.symlink_metadata().unwrap().is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

fn git(dir: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .current_dir(dir);
    assert!(command.status().unwrap().success(), "{command:?}");
}

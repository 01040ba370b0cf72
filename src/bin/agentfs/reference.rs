//! The ways to name a checkpoint, the same in every command.
//!
//! `cp_1a2b3c…` (or the beginning of one), `v12`, `@-10` (that many before the newest), `@5m` (the state
//! so long ago), `@checkpoint-12`, a branch, `@` (the newest). The `@` in front may be there or not;
//! `FILE@REF` splits at the last one.

use super::history;
use super::note::Checkpoint;
use super::project::Project;
use super::refs;
use super::writer::now_ms;
use crate::exit::Failure;

#[derive(Debug, PartialEq, Eq)]
enum Reference<'a> {
    /// How many before the newest.
    Back(usize),
    /// Milliseconds ago.
    Ago(i64),
    Version(u64),
    /// The beginning of an id.
    Id(&'a str),
    Branch(&'a str),
}

fn parse(text: &str) -> Reference<'_> {
    let name = text.strip_prefix('@').unwrap_or(text);
    if name.is_empty() {
        return Reference::Back(0);
    }
    if let Some(back) = name.strip_prefix('-').and_then(number) {
        return Reference::Back(back as usize);
    }
    let version = name.strip_prefix('v').or(name.strip_prefix("checkpoint-"));
    if let Some(version) = version.and_then(number) {
        return Reference::Version(version);
    }
    if name.starts_with("cp_") {
        return Reference::Id(name);
    }
    match duration(name) {
        Some(ago) => Reference::Ago(ago),
        None => Reference::Branch(name),
    }
}

fn number(digits: &str) -> Option<u64> {
    let all = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| all)
}

/// Milliseconds of `90s`, `5m`, `2h`, `1d`, `3w`.
pub fn duration(text: &str) -> Option<i64> {
    let unit = text.char_indices().next_back()?;
    let seconds: i64 = match unit.1 {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let count = number(&text[..unit.0])?;
    i64::try_from(count)
        .ok()?
        .checked_mul(seconds)?
        .checked_mul(1000)
}

/// Whether a branch of this name could never be meant by it.
pub fn is_other_than_branch(name: &str) -> bool {
    !matches!(parse(name), Reference::Branch(_))
}

/// Checkpoints by name, read once.
pub struct Resolver<'a> {
    project: &'a Project,
    /// Of the current branch, the newest first.
    pub line: Vec<Checkpoint>,
}

impl<'a> Resolver<'a> {
    pub fn new(project: &'a Project) -> Result<Resolver<'a>, Failure> {
        let line = history::head(project)?;
        Ok(Resolver { project, line })
    }

    pub fn find(&self, text: &str) -> Result<Checkpoint, Failure> {
        let none = |reason: &str| {
            Failure::new(format!("no checkpoint {text}: {reason}")).advise("see `agentfs log`")
        };
        match parse(text) {
            Reference::Back(back) => {
                let found = self.line.get(back).cloned();
                let count = self.line.len();
                found.ok_or_else(|| none(&format!("the branch has {count} of them")))
            }
            Reference::Ago(ago) => {
                let then = now_ms() - ago;
                let found = self.line.iter().find(|c| c.note.time <= then).cloned();
                found.ok_or_else(|| none("the first was made later"))
            }
            Reference::Version(version) => self
                .one(text, |c| c.note.version == version)?
                .ok_or_else(|| none("no branch has it")),
            Reference::Id(id) => self
                .one(text, |c| c.note.id.starts_with(id))?
                .ok_or_else(|| none("no branch has it")),
            Reference::Branch(name) => {
                let oid = refs::read(self.project, name)?;
                let oid = oid.ok_or_else(|| none("neither id, version, time nor branch"))?;
                let objects = super::objects::Objects::new(&self.project.store);
                super::commit::read(self.project, &objects, oid)
            }
        }
    }

    /// What is meant on the current branch counts before what is on others.
    fn one(
        &self,
        text: &str,
        is_meant: impl Fn(&Checkpoint) -> bool,
    ) -> Result<Option<Checkpoint>, Failure> {
        let mut found: Vec<Checkpoint> =
            self.line.iter().filter(|c| is_meant(c)).cloned().collect();
        if found.is_empty() {
            found = history::everything(self.project)?;
            found.retain(|checkpoint| is_meant(checkpoint));
        }
        if found.len() > 1 {
            let ids: Vec<&str> = found.iter().map(|c| c.note.id.as_str()).collect();
            return Err(Failure::new(format!("{text} may be {}", ids.join(" or ")))
                .advise("give more of the id"));
        }
        Ok(found.pop())
    }
}

/// Splits `FILE@REF`; the newest checkpoint is meant when there is no `@`.
pub fn split_file(text: &[u8]) -> (&[u8], String) {
    match text.iter().rposition(|byte| *byte == b'@') {
        Some(at) => {
            let reference = String::from_utf8_lossy(&text[at..]).into_owned();
            (&text[..at], reference)
        }
        None => (text, "@".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_checkpoint_is_understood() {
        for (text, meant) in [
            ("@", Reference::Back(0)),
            ("@-10", Reference::Back(10)),
            ("-10", Reference::Back(10)),
            ("@5m", Reference::Ago(300_000)),
            ("2h", Reference::Ago(7_200_000)),
            ("v12", Reference::Version(12)),
            ("@v12", Reference::Version(12)),
            ("@checkpoint-47", Reference::Version(47)),
            ("cp_1a2b", Reference::Id("cp_1a2b")),
            ("@cp_1a2b", Reference::Id("cp_1a2b")),
            ("main", Reference::Branch("main")),
            ("vendor", Reference::Branch("vendor")),
            ("@-x", Reference::Branch("-x")),
            (
                "99999999999999999999w",
                Reference::Branch("99999999999999999999w"),
            ),
        ] {
            assert_eq!(parse(text), meant, "{text}");
        }
    }

    #[test]
    fn a_file_s_reference_begins_at_the_last_at_sign() {
        assert_eq!(
            split_file(b"src/app.ts@-10"),
            (&b"src/app.ts"[..], "@-10".into())
        );
        assert_eq!(split_file(b"a@b.c@v3"), (&b"a@b.c"[..], "@v3".into()));
        assert_eq!(split_file(b"plain"), (&b"plain"[..], "@".into()));
    }
}

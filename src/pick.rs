//! Which session is meant by the beginning of its ID.
//!
//! A session's ID is its name without `.jsonl`. Where two projects have one of the same ID,
//! `PROJECT/ID` tells them apart. An ID given in full is never ambiguous because others begin with it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Those of `all` that `wanted` may mean; `name` tells project and ID.
pub fn pick<T>(
    wanted: &OsStr,
    all: impl IntoIterator<Item = T>,
    name: impl Fn(&T) -> (&OsStr, &OsStr),
) -> Vec<T> {
    let wanted = wanted.as_bytes();
    let slash = wanted.iter().position(|&b| b == b'/');
    let (project, id) = match slash {
        Some(at) => (Some(&wanted[..at]), &wanted[at + 1..]),
        None => (None, wanted),
    };
    let mut begins: Vec<T> = all
        .into_iter()
        .filter(|one| {
            let (its_project, its_id) = name(one);
            project.is_none_or(|project| project == its_project.as_bytes())
                && its_id.as_bytes().starts_with(id)
        })
        .collect();
    if begins.iter().any(|one| name(one).1.as_bytes() == id) {
        begins.retain(|one| name(one).1.as_bytes() == id);
    }
    begins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_enough_and_a_whole_one_is_exact() {
        let all = [
            ("-a", "7a1e"),
            ("-a", "7a1e-2"),
            ("-b", "7a1e"),
            ("-b", "80"),
        ];
        let picked = |wanted: &str| {
            let picked = pick(OsStr::new(wanted), all, |(project, id)| {
                (OsStr::new(*project), OsStr::new(*id))
            });
            picked.len()
        };
        assert_eq!(picked("8"), 1);
        assert_eq!(picked("7a"), 3);
        assert_eq!(picked("7a1e"), 2);
        assert_eq!(picked("-b/7a"), 1);
        assert_eq!(picked("-a/7a1e"), 1);
        assert_eq!(picked("-/7a"), 0);
        assert_eq!(picked("9"), 0);
    }
}

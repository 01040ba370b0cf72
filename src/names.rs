//! Visible names and store names; the one place where they map to each other.
//!
//! At every depth `X.jsonl` is the raw file of that name or else `X.jsonl.zst`. Names are bytes. What
//! the store needs for itself is reserved: it is not visible and cannot be created.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The cellar's own directory in the store.
pub const OWN: &str = ".cellar";
/// Bytes of the longest name.
pub const NAME_MAX: usize = 255;

const SESSION: &[u8] = b".jsonl";
const PACKED: &[u8] = b".zst";
const SIDECAR: &[u8] = b".meta";

/// How a session is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `X.jsonl`, and every file that is no session.
    Raw,
    /// `X.jsonl.zst`.
    Packed,
}

/// A visible name: its directory beneath the store (empty for the top) and the name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub dir: PathBuf,
    pub name: OsString,
}

impl Place {
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }
}

fn suffixed(name: &OsStr, suffix: &[u8]) -> OsString {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend_from_slice(suffix);
    OsString::from_vec(bytes)
}

/// Whether a visible name is a session's.
pub fn is_session(name: &OsStr) -> bool {
    name.as_bytes().ends_with(SESSION)
}

/// The store name of a session's compressed form; `None` for other names and those too long for it.
pub fn packed_name(name: &OsStr) -> Option<OsString> {
    (is_session(name) && name.len() + PACKED.len() <= NAME_MAX).then(|| suffixed(name, PACKED))
}

/// The name of the 48-byte file that 0.3.0 put beside a session.
pub fn sidecar_name(name: &OsStr) -> Option<OsString> {
    (is_session(name) && name.len() + SIDECAR.len() <= NAME_MAX).then(|| suffixed(name, SIDECAR))
}

/// The visible name of a store file: `None` where it has none.
pub fn visible_name(stored: &OsStr) -> Option<&OsStr> {
    let bytes = stored.as_bytes();
    match bytes.strip_suffix(PACKED) {
        Some(session) if session.ends_with(SESSION) => Some(OsStr::from_bytes(session)),
        _ => (!is_reserved_anywhere(stored)).then_some(stored),
    }
}

fn is_reserved_anywhere(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    [PACKED, SIDECAR]
        .iter()
        .any(|s| bytes.strip_suffix(*s).is_some_and(|b| b.ends_with(SESSION)))
}

/// Whether a name cannot be used in this directory of the mount.
pub fn is_reserved(dir: &Path, name: &OsStr) -> bool {
    is_reserved_anywhere(name) || (dir.as_os_str().is_empty() && name == OWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> &OsStr {
        OsStr::from_bytes(bytes)
    }

    fn long(len: usize) -> OsString {
        OsString::from_vec([vec![b'x'; len - SESSION.len()], SESSION.to_vec()].concat())
    }

    #[test]
    fn sessions_have_a_packed_name_and_others_none() {
        for (session, packed) in [
            (&b"a.jsonl"[..], Some(&b"a.jsonl.zst"[..])),
            (b"\xff\xfe.jsonl", Some(b"\xff\xfe.jsonl.zst")),
            (b".jsonl", Some(b".jsonl.zst")),
            (b"a.json", None),
            (b"a.JSONL", None),
            (b"a.jsonl.zst", None),
            (b"jsonl", None),
        ] {
            assert_eq!(packed_name(name(session)).as_deref(), packed.map(name));
            assert_eq!(is_session(name(session)), packed.is_some());
        }
    }

    #[test]
    fn names_too_long_for_a_suffix_stay_raw() {
        for len in 249..=255 {
            let session = long(len);
            assert!(is_session(&session));
            assert_eq!(packed_name(&session).is_some(), len <= 251, "{len}");
            assert_eq!(sidecar_name(&session).is_some(), len <= 250, "{len}");
            assert_eq!(visible_name(&session), Some(session.as_os_str()));
        }
        assert_eq!(packed_name(&long(251)).unwrap().len(), 255);
    }

    #[test]
    fn visible_names_hide_what_is_the_cellar_s() {
        for (stored, visible) in [
            (&b"a.jsonl.zst"[..], Some(&b"a.jsonl"[..])),
            (b"\xff.jsonl.zst", Some(b"\xff.jsonl")),
            (b"a.jsonl", Some(b"a.jsonl")),
            (b"a.jsonl.meta", None),
            (b"a.zst", Some(b"a.zst")),
            (b"a.meta", Some(b"a.meta")),
            (b"a.jsonl.zst.zst", Some(b"a.jsonl.zst.zst")),
            (b".cellar", Some(b".cellar")),
        ] {
            assert_eq!(visible_name(name(stored)), visible.map(name));
        }
    }

    #[test]
    fn reserved_are_the_store_s_own_names_only() {
        let (top, below) = (Path::new(""), Path::new("-p"));
        for (dir, bytes, reserved) in [
            (top, &b".cellar"[..], true),
            (below, b".cellar", false),
            (below, b"a.jsonl.zst", true),
            (below, b"\xff.jsonl.meta", true),
            (top, b"a.jsonl.zst", true),
            (below, b"a.zst", false),
            (below, b"a.jsonl", false),
        ] {
            assert_eq!(is_reserved(dir, name(bytes)), reserved, "{bytes:?}");
        }
    }
}

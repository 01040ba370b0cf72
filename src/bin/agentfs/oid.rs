//! Names of git objects: the SHA-1 of what they hold.

use std::fmt;
use std::str::FromStr;

/// An object's name.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(pub [u8; 20]);

impl Oid {
    /// The tree without entries.
    pub const EMPTY_TREE: Oid = Oid([
        0x4b, 0x82, 0x5d, 0xc6, 0x42, 0xcb, 0x6e, 0xb9, 0xa0, 0x60, 0xe5, 0x4b, 0xf8, 0xd6, 0x92,
        0x88, 0xfb, 0xee, 0x49, 0x04,
    ]);
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Oid {
    type Err = ();

    /// Reads 40 hexadecimal digits.
    fn from_str(text: &str) -> Result<Oid, ()> {
        let digits = text.as_bytes();
        if digits.len() != 40 {
            return Err(());
        }
        let mut oid = Oid::default();
        for (byte, pair) in oid.0.iter_mut().zip(digits.chunks(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(());
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(oid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_being_written_and_read() {
        let text = Oid::EMPTY_TREE.to_string();
        assert_eq!(text, "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        assert_eq!(text.parse(), Ok(Oid::EMPTY_TREE));
        assert!("4b825".parse::<Oid>().is_err());
        assert!("zz".repeat(20).parse::<Oid>().is_err());
    }
}

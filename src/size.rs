//! Numbers and times as people read them; every listing and summary uses the same forms.

use std::fmt::Write;
use std::time::Duration;

/// Bytes in the largest binary unit that keeps the number above one.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut name = "B";
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        name = unit;
    }
    match name {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {name}"),
    }
}

/// How many times smaller something is stored.
pub fn ratio(original: u64, stored: u64) -> String {
    format!("{:.1}x", original as f64 / stored.max(1) as f64)
}

/// A count with its noun, which takes an s unless there is one.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A length of time in its two largest units.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// Seconds since the epoch as `YYYY-MM-DD HH:MM`, UTC.
pub fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years begin in March, so that a leap day is a year's last: eras of 400 years repeat exactly.
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, january_based) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = year + era * 400 + i64::from(january_based <= 2);
    let mut out = format!("{year:04}-{january_based:02}-{day:02}");
    let _ = write!(out, " {:02}:{:02}", second / 3_600, second / 60 % 60);
    out
}

/// Milliseconds since the epoch as `YYYY-MM-DDTHH:MM:SS.mmmZ` (RFC 3339).
pub fn rfc3339(milliseconds: i64) -> String {
    let (seconds, rest) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
    let minute = utc(seconds).replace(' ', "T");
    format!("{minute}:{:02}.{rest:03}Z", seconds.rem_euclid(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_programs_read_it() {
        assert_eq!(rfc3339(1_769_510_520_123), "2026-01-27T10:42:00.123Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn ratios_and_counts() {
        assert_eq!(ratio(100, 8), "12.5x");
        assert_eq!(ratio(0, 0), "0.0x");
        assert_eq!(count(1, "session"), "1 session");
        assert_eq!(count(0, "session"), "0 sessions");
    }

    #[test]
    fn durations_have_two_units() {
        let text = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(text(59), "59 s");
        assert_eq!(text(61), "1 min 1 s");
        assert_eq!(text(7_384), "2 h 3 min");
    }

    #[test]
    fn times_are_the_calendar_s() {
        assert_eq!(utc(0), "1970-01-01 00:00");
        assert_eq!(utc(-1), "1969-12-31 23:59");
        assert_eq!(utc(951_825_599), "2000-02-29 11:59");
        assert_eq!(utc(1_709_251_199), "2024-02-29 23:59");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00");
        assert!(!utc(i64::MIN).is_empty() && !utc(i64::MAX).is_empty());
    }
}

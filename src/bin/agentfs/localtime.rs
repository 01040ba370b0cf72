//! Moments as the clock on the user's wall shows them.

use std::mem::MaybeUninit;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A moment in some time zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    /// From 1, as the day is.
    pub month: u8,
    pub day_of_month: u8,
    pub hour: u8,
    pub minute: u8,
}

impl Civil {
    /// `2026-01-27`
    pub fn date(&self) -> String {
        format!(
            "{:04}-{:02}-{:02}",
            self.year, self.month, self.day_of_month
        )
    }

    /// `14:05`
    pub fn clock(&self) -> String {
        format!("{:02}:{:02}", self.hour, self.minute)
    }

    /// `Jan 27`
    pub fn day(&self) -> String {
        let month = usize::from(self.month).wrapping_sub(1);
        let month = MONTHS.get(month).unwrap_or(&"?");
        format!("{month} {}", self.day_of_month)
    }

    /// `Jan 27, 14:05`
    pub fn short(&self) -> String {
        format!("{}, {}", self.day(), self.clock())
    }

    /// `2026-01-27 14:05`
    pub fn full(&self) -> String {
        format!("{} {}", self.date(), self.clock())
    }
}

/// Milliseconds since the epoch in the user's time zone.
pub fn local(millis: i64) -> Civil {
    let seconds: libc::time_t = millis.div_euclid(1_000);
    let mut fields = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live objects of the right types, and all zeroes is a valid tm: it
    // stays so where the call fails.
    let fields = unsafe {
        libc::localtime_r(&seconds, fields.as_mut_ptr());
        fields.assume_init()
    };
    Civil {
        year: i64::from(fields.tm_year) + 1_900,
        month: (fields.tm_mon + 1) as u8,
        day_of_month: fields.tm_mday as u8,
        hour: fields.tm_hour as u8,
        minute: fields.tm_min as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_people_do() {
        let civil = Civil {
            year: 2026,
            month: 1,
            day_of_month: 27,
            hour: 9,
            minute: 5,
        };
        assert_eq!(civil.full(), "2026-01-27 09:05");
        assert_eq!(civil.short(), "Jan 27, 09:05");
        assert_eq!(Civil::default().short(), "? 0, 00:00");
    }

    #[test]
    fn any_number_is_some_moment() {
        let ordinary = local(1_769_522_400_000);
        assert_eq!((ordinary.year, ordinary.month), (2026, 1));
        local(i64::MIN);
        local(i64::MAX);
    }
}

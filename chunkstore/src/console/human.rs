//! Numbers for people.

use std::fmt;
use std::time::Duration;

/// A number of bytes: `812 B`, `3.4 KiB`, `1.25 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut unit = 0;
        // Only three digits are shown, so the precision of a float is enough.
        let mut value = self.0 as f64;
        // What would be rounded up to 1024 belongs to the next unit.
        while value >= 1023.5 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = match value {
            _ if unit == 0 || value >= 99.95 => 0,
            value if value >= 9.995 => 1,
            _ => 2,
        };
        f.pad(&format!("{value:.digits$} {}", UNITS[unit]))
    }
}

/// A length of time: `0.8 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(pub Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        let text = match seconds {
            0..10 => format!("{:.1} s", self.0.as_secs_f64()),
            10..60 => format!("{seconds} s"),
            60..3600 => format!("{minutes} min {} s", seconds % 60),
            3600..86_400 => format!("{hours} h {} min", minutes % 60),
            _ => format!("{days} d {} h", hours % 24),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let shown: Vec<String> =
            [0, 1023, 1024, 10_240, 1_048_575, 3 << 30, u64::MAX].iter().map(|n| Bytes(*n).to_string()).collect();
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "10.0 KiB", "1.00 MiB", "3.00 GiB", "16.0 EiB"]);
    }

    #[test]
    fn times_have_two_units() {
        let shown: Vec<String> =
            [0, 59, 200, 7500, 273_600].iter().map(|s| Elapsed(Duration::from_secs(*s)).to_string()).collect();
        assert_eq!(shown, ["0.0 s", "59 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"]);
    }
}

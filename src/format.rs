//! Text of numbers: thousands separated, times and bytes in the unit that reads best. Text from outside: made harmless.

use std::fmt::{self, Write as _};

/// A number with thousands separated.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds in the unit that reads best, with three digits.
pub fn time(us: u64) -> String {
    let digits = |value: f64, unit: &str| match value {
        v if v < 9.995 => format!("{v:.2}{unit}"),
        v if v < 99.95 => format!("{v:.1}{unit}"),
        v => format!("{v:.0}{unit}"),
    };
    match us {
        0..=999 => format!("{us}us"),
        1_000..=999_499 => digits(us as f64 / 1e3, "ms"),
        _ => digits(us as f64 / 1e6, "s"),
    }
}

/// A figure of so many measurements; a dash where there was none.
pub fn measured(number: u64, figure: String) -> String {
    if number == 0 { "-".to_owned() } else { figure }
}

/// Bytes in the unit that reads best.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A text from outside as a part of a line. It may hold line breaks and commands to a terminal, which are shown and not
/// obeyed.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            if letter.is_control() { write!(f, "{}", letter.escape_default())? } else { f.write_char(letter)? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_000_000].map(count), ["0", "999", "1,000", "1,000,000"]);
        assert_eq!(
            [7, 999, 1_000, 12_345, 999_499, 1_003_000].map(time),
            ["7us", "999us", "1.00ms", "12.3ms", "999ms", "1.00s"]
        );
        assert_eq!([0, 1023, 1024, 64 << 20].map(bytes), ["0 B", "1023 B", "1.0 KiB", "64.0 MiB"]);
    }

    #[test]
    fn a_text_from_outside_stays_one_line() {
        assert_eq!(Escaped("é\n\u{1b}[2J\u{9b}").to_string(), r"é\n\u{1b}[2J\u{9b}");
    }
}

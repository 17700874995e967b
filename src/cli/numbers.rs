//! What clap says of numbers that are none, in words that say what to write.

use std::error::Error as _;
use std::num::{IntErrorKind, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The largest number that is computed for somebody who wrote it in another way. All whole numbers below are exact.
const LARGEST: f64 = (1u64 << 53) as f64;

/// The same error, in other words if it is about a number.
pub fn explained(error: clap::Error) -> clap::Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let said = match error.kind() {
        ErrorKind::UnknownArgument => below_zero(context(ContextKind::InvalidArg)),
        ErrorKind::ValueValidation => {
            let no_number = error.source().and_then(|source| source.downcast_ref::<ParseIntError>());
            let (value, option) = (context(ContextKind::InvalidValue), context(ContextKind::InvalidArg));
            no_number.map(|why| {
                let kind = why.kind();
                format!("invalid value '{value}' for '{option}': {}", instead(kind, value))
            })
        }
        _ => None,
    };
    let hint = "For more information, try '--help'.";
    said.map_or(error, |said| clap::Error::raw(ErrorKind::ValueValidation, format!("{said}\n\n{hint}\n")))
}

/// An argument that clap takes for an option, and is a number below zero.
fn below_zero(argument: &str) -> Option<String> {
    let number = argument.strip_prefix('-').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    number.then(|| format!("unexpected argument '{argument}': no value is below zero; give one of 0 or more"))
}

/// A value without what separates its groups of three digits. `None` if it has other groups, or a point that may be either a
/// separator of groups or the beginning of a fraction.
fn ungrouped(value: &str) -> Option<String> {
    let is_group = |group: &str| group.len() == 3 && group.bytes().all(|digit| digit.is_ascii_digit());
    let value = value.trim();
    let (whole, fraction) = value.split_once('.').unzip();
    let mut groups = whole.unwrap_or(value).split(['_', ',', '\'', ' ']);
    let first = groups.next()?;
    let rest: Vec<&str> = groups.collect();
    let is_grouped = !rest.is_empty();
    let is_first = (1..=3).contains(&first.len()) && first.bytes().all(|digit| digit.is_ascii_digit());
    if !rest.iter().copied().all(is_group) || is_grouped && !is_first {
        return None;
    }
    if !is_grouped && first.len() <= 3 && fraction.is_some_and(is_group) {
        return None;
    }
    let fraction = fraction.map(|fraction| format!(".{fraction}")).unwrap_or_default();
    Some(format!("{first}{}{fraction}", rest.concat()))
}

/// Why a value is no whole number, and what to write instead.
fn instead(kind: &IntErrorKind, value: &str) -> String {
    let number = ungrouped(value).and_then(|digits| digits.parse::<f64>().ok());
    let number = number.filter(|number| (0.0..LARGEST).contains(number) && number.fract() == 0.0);
    match (kind, number) {
        (IntErrorKind::PosOverflow, _) => "it is too large; give a smaller number".to_owned(),
        (_, Some(number)) => format!("a number is written in digits alone; try {}", number as u64),
        _ => "a whole number is wanted, in digits alone; try one such as 1000".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_another_way_is_shown_in_digits() {
        let said = |value: &str| instead(value.parse::<u64>().unwrap_err().kind(), value);
        let values = [
            ("1e6", "1000000"),
            ("1_000", "1000"),
            ("1,000,000", "1000000"),
            ("1000.0", "1000"),
            ("1'234", "1234"),
            ("10 000", "10000"),
            ("1,000.0", "1000"),
            ("1000.000", "1000"),
            ("2.5e3", "2500"),
            (" 70 ", "70"),
        ];
        for (value, number) in values {
            assert!(said(value).ends_with(&format!("; try {number}")), "{}", said(value));
        }
        // What may be meant in two ways is not guessed at.
        for value in ["1,5", "0,5", "1.000", "1.000.000", "1_0", "10,00", "1234,567", ",000", "1,,000", "1e0,003"] {
            assert!(said(value).ends_with("such as 1000"), "{value}: {}", said(value));
        }
        for value in ["", "1GiB", "-1", "0.5", "1e99", "nan", "inf", "٣", "0x10", "many"] {
            assert!(said(value).ends_with("such as 1000"), "{value}: {}", said(value));
        }
        assert!(said("99999999999999999999").contains("too large"));
        assert!(below_zero("-1").is_some() && below_zero("-x").is_none() && below_zero("--1").is_none());
    }
}

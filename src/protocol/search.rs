//! Searching bytes that come in pieces for a literal.

use super::Scratch;

/// Searches the next bytes for the literal in `scratch.expected`, of which the last `at` bytes so far may be the
/// beginning (Knuth, Morris, Pratt 1977: no byte is looked at again). Returns how many bytes were used: up to the
/// end of the literal, or all.
pub fn search(scratch: &mut Scratch, at: &mut u16, bytes: &[u8]) -> usize {
    let literal = &scratch.expected[..];
    let borders = &mut scratch.borders;
    write_borders(literal, borders);
    let mut matched = usize::from(*at);
    let mut used = bytes.len();
    for (index, byte) in bytes.iter().enumerate() {
        matched = longer(literal, borders, matched, *byte);
        if matched == literal.len() {
            used = index + 1;
            break;
        }
    }
    *at = matched as u16;
    used
}

/// How many bytes of the literal the bytes so far end with, after one more of them. `matched` is how many it was, and
/// less than all.
fn longer(literal: &[u8], borders: &[u16], mut matched: usize, byte: u8) -> usize {
    while literal[matched] != byte {
        match matched.checked_sub(1) {
            Some(last) => matched = usize::from(borders[last]),
            None => return 0,
        }
    }
    matched + 1
}

/// Writes for each beginning of the literal the length of its longest border: a shorter beginning that is its end
/// too.
fn write_borders(literal: &[u8], borders: &mut Vec<u16>) {
    borders.clear();
    borders.push(0);
    let mut matched = 0;
    for byte in &literal[1..] {
        matched = longer(literal, borders, matched, *byte);
        borders.push(matched as u16);
    }
}

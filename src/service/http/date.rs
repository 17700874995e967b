//! The `Date` of an answer, which a server with a clock gives in each answer from 200 to 499 (RFC 9110, 6.6.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

/// Appends the field, with the time of this host. The text is made once a second on each thread.
pub fn write_date(into: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second {
            (*last, *text) = (second, field(second));
        }
        into.extend_from_slice(text.as_bytes());
    });
}

/// The field for a second since 1970. The text has four digits for the year, and the kernel's clock ends before the year
/// 10,000.
fn field(second: u64) -> String {
    format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_the_form_of_rfc_9110() {
        assert_eq!(field(784_111_777), "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        let mut written = Vec::new();
        write_date(&mut written);
        write_date(&mut written);
        let written = String::from_utf8(written).unwrap();
        assert_eq!(written.lines().filter(|line| line.starts_with("Date: ") && line.ends_with(" GMT")).count(), 2);
    }
}

//! Documents as JSON.

use std::io::Write;

use serde::Serialize;

use crate::error::{Error, Result};

/// Writes a document as pretty JSON that ends with a newline. Returns a host error if writing fails.
pub fn write(document: &impl Serialize, into: &mut dyn Write) -> Result<()> {
    let text = serde_json::to_string_pretty(document).map_err(|e| Error::bug(format!("JSON: {e}")))?;
    writeln!(into, "{text}").map_err(|e| {
        Error::host(
            format!("write JSON: {e}"),
            "the document is incomplete",
            "free disk space or choose another --json file",
        )
    })
}

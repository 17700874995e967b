//! Documents as JSON.

use serde::Serialize;

use crate::error::{Error, Result};

/// A document as pretty JSON that ends with a newline. A document that does not serialize is a bug of c1m.
pub fn text(document: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(document).map_err(|e| Error::bug(format!("JSON: {e}")))?;
    Ok(text + "\n")
}

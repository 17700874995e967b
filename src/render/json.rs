//! Documents as JSON.

use serde::Serialize;

use crate::error::{Error, Result};

/// Any document on lines of its own. What c1m writes always serializes; where it does not, that is a bug.
pub fn text(document: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(document).map_err(|e| Error::bug(format!("JSON: {e}")))?;
    Ok(text + "\n")
}

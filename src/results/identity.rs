//! Whose result a document is, so that no run counts twice: by the identity that each run gives itself,
//! wherever its result was copied or merged to. A result of an earlier version has none, and counts as
//! what it says.

use std::collections::BTreeMap;

use super::document::ClientDocument;
use crate::error::{ConfigError, DocumentProblem, Result};

/// Identities of the runs that a result holds: its own, or those of the machines merged into it.
pub fn of(result: &ClientDocument) -> Vec<String> {
    if !result.machines.is_empty() {
        return result.machines.iter().flat_map(|machine| of(&machine.result)).collect();
    }
    let own = result.about.as_ref().map(|about| about.run_id.clone()).filter(|id| !id.is_empty());
    // A document of plain fields always serializes.
    vec![own.unwrap_or_else(|| serde_json::to_string(result).unwrap_or_default())]
}

/// Checks that no run is among these parts, each with its name, more than once.
pub fn check(parts: impl Iterator<Item = (String, Vec<String>)>) -> Result<()> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (name, runs) in parts {
        for run in runs {
            if let Some(other) = known.insert(run, name.clone()) {
                return Err(ConfigError::Document { name, problem: DocumentProblem::SameRun(other) }.into());
            }
        }
    }
    Ok(())
}

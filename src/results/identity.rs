//! The identity of runs in documents, so that no run counts twice. A run gives itself an identity, and its result
//! keeps it wherever it is copied or merged. A result of an earlier version has no identity; its content serves as
//! one.

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

/// Checks that no run occurs twice in these parts, each with its name. Returns a `ConfigError` if one does.
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

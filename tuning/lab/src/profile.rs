//! Boot parameters: those the lab itself needs, and those of a profile.

use clap::ValueEnum;

/// The document that explains the extreme profile and holds its parameters, in its first block.
const DOCUMENT: &str = include_str!("../../cmdline.md");

/// The console for the log; a panic ends the machine, and with it QEMU. On a busy host, a guest that
/// waits 40 ms for its timer finds none and panics, so it shall not check. The last is speed alone:
/// programs that are all ours need no defence against each other.
const LAB: &str = "console=ttyS0 panic=-1 no_timer_check mitigations=off";

/// Which boot parameters a machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The kernel's own.
    Standard,
    /// Those of tuning/cmdline.md.
    Extreme,
}

impl Profile {
    /// The boot command line.
    pub fn command_line(self, more: &str) -> String {
        let own = match self {
            Profile::Standard => "",
            Profile::Extreme => extreme(DOCUMENT),
        };
        let parts = [LAB, own, more.trim()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// The first fenced block of the document, which is one line.
fn extreme(document: &str) -> &str {
    document.split("```").nth(1).and_then(|block| block.lines().nth(1)).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_holds_the_parameters() {
        let line = Profile::Extreme.command_line(" nokaslr ");
        assert!(line.starts_with(LAB) && line.ends_with(" nokaslr"), "{line}");
        assert!(line.contains("slub_max_order=") && !line.contains('`'), "{line}");
        assert_eq!(Profile::Standard.command_line(""), LAB);
    }
}

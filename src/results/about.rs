//! The machine, version and command line of a run, which a reader needs to repeat it.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::protocol::{HIDDEN, is_secret_field};

/// The machine, its kernel, and the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The identity of the run: 128 random bits in hexadecimal, which all its documents hold. Empty in results of
    /// an earlier version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run_id: String,
    /// The version of c1m.
    pub version: String,
    /// The command line, word by word. `HIDDEN` stands for a secret.
    pub command_line: Vec<String>,
    /// The machine's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's model name; empty where the kernel does not tell.
    pub processor: String,
    /// Number of cores that this process may use.
    pub cores: usize,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
}

impl About {
    /// Describes this process and its host.
    pub fn here() -> About {
        let host = Host::here();
        let text = |name: &str| host.sysctl_text(name).unwrap_or_default();
        About {
            run_id: run_id().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command_line: without_secrets(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
            host: text("kernel.hostname"),
            kernel: text("kernel.osrelease"),
            processor: host.processor().unwrap_or_default(),
            cores: host.cores_allowed().len(),
            memory_bytes: host.memory().map_or(0, |memory| memory.total),
        }
    }

    /// The command line, quoted for a POSIX shell.
    pub fn shell_command(&self) -> String {
        self.command_line.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

/// What to show of a word that is the value of an option of this name, if it is a secret or has one in it.
fn hidden(option: &str, value: &str) -> Option<String> {
    match (option, value.split_once(':')) {
        ("password", _) => Some(HIDDEN.to_owned()),
        ("header", Some((field, _))) if is_secret_field(field) => Some(format!("{field}: {HIDDEN}")),
        _ => None,
    }
}

/// The words of a command line without the secrets in them: results and their pages are passed on.
fn without_secrets(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut before = None;
    words
        .map(|word| {
            let option = word.strip_prefix("--").map(str::to_owned);
            let option_before = std::mem::replace(&mut before, option.clone());
            let shown = match option.as_deref().and_then(|option| option.split_once('=')) {
                Some((name, value)) => hidden(name, value).map(|hidden| format!("--{name}={hidden}")),
                None => option_before.and_then(|name| hidden(&name, &word)),
            };
            shown.unwrap_or(word)
        })
        .collect()
}

/// The identity of this process's run; empty where the kernel has no random numbers.
pub fn run_id() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map(|()| format!("{:032x}", u128::from_be_bytes(bytes))).unwrap_or_default()
    })
}

/// A word, quoted for a POSIX shell where that is necessary.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_in_a_command_line() {
        let shown = |line: &str| without_secrets(line.split('|').map(str::to_owned)).join("|");
        assert_eq!(shown("c1m|client|--password|a b|--user|me"), "c1m|client|--password|***|--user|me");
        assert_eq!(shown("c1m|--password=a=b|--path=/password"), "c1m|--password=***|--path=/password");
        let headers = "--header|Authorization: Bearer a|--header=X-Api-Key:b|--header|Accept: token";
        assert_eq!(shown(headers), "--header|Authorization: ***|--header=X-Api-Key: ***|--header|Accept: token");
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        assert_eq!(["--port", "10.0.0.0/24"].map(quoted), ["--port", "10.0.0.0/24"]);
        assert_eq!(["", "a b", "it's", "<b>"].map(quoted), ["''", "'a b'", r"'it'\''s'", "'<b>'"]);
    }
}

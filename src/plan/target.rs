//! Where a client connects, as it is typed: a host with ports, or a URL.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::Ports;
use crate::addresses::Address;
use crate::format::Escaped;

/// The scheme of a URL: a protocol, with TLS or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `ws`
    Ws,
    /// `wss`
    Wss,
    /// `mqtt`
    Mqtt,
    /// `mqtts`
    Mqtts,
    /// `http`
    Http,
    /// `https`
    Https,
    /// `nats`
    Nats,
}

impl Scheme {
    /// All of them.
    const ALL: [Scheme; 7] =
        [Scheme::Ws, Scheme::Wss, Scheme::Mqtt, Scheme::Mqtts, Scheme::Http, Scheme::Https, Scheme::Nats];

    /// Its name in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Nats => "nats",
        }
    }

    /// The protocol that it means, as `Protocol::NAMES` has it.
    pub fn protocol(self) -> &'static str {
        match self {
            Scheme::Ws | Scheme::Wss => "websocket",
            Scheme::Mqtt | Scheme::Mqtts => "mqtt",
            Scheme::Http | Scheme::Https => "http",
            Scheme::Nats => "nats",
        }
    }

    /// Whether TLS is below the protocol.
    pub fn has_tls(self) -> bool {
        matches!(self, Scheme::Wss | Scheme::Mqtts | Scheme::Https)
    }

    /// The port where a URL names none.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Ws | Scheme::Http => 80,
            Scheme::Wss | Scheme::Https => 443,
            Scheme::Mqtt => 1883,
            Scheme::Mqtts => 8883,
            Scheme::Nats => 4222,
        }
    }
}

/// The host of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetHost {
    /// One that is to be looked up.
    Name(String),
    /// An address, with its interface if it needs one.
    Address(Address),
}

impl FromStr for TargetHost {
    type Err = String;

    /// Reads a name of ASCII letters, digits, `-`, `_` and dots, or what an address is read from.
    fn from_str(text: &str) -> Result<TargetHost, String> {
        if text.split('%').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()) {
            return text.parse().map(TargetHost::Address);
        }
        if text.len() > LONGEST_NAME {
            let length = text.chars().count();
            return Err(format!("a name of {length} characters: a host's has {LONGEST_NAME} at most; shorten it"));
        }
        let is_name =
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let wrong = || format!("'{text}' is no name of a host; write a name in ASCII (xn--…), or an address");
        if is_name { Ok(TargetHost::Name(text.to_owned())) } else { Err(wrong()) }
    }
}

impl fmt::Display for TargetHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetHost::Name(name) => f.write_str(name),
            TargetHost::Address(address) if address.ip().is_ipv6() => write!(f, "[{address}]"),
            TargetHost::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A host with ports, and what else a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The scheme of a URL; `None` for a bare host with ports.
    pub scheme: Option<Scheme>,
    /// The host.
    pub host: TargetHost,
    /// Its ports.
    pub ports: Ports,
    /// The path of a URL with its query; `None` if there is none, or only `/`.
    pub path: Option<String>,
}

/// What a target looks like, for errors.
const EXAMPLES: &str = "try example.org:8888, 10.0.0.1:8888-8987 or ws://example.org:8888/path";

impl Target {
    /// The host as it stands in a URL.
    pub fn url_host(&self) -> String {
        match &self.host {
            TargetHost::Name(name) => name.clone(),
            TargetHost::Address(address) => address.url_host(),
        }
    }

    /// The host, unless it is an address.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            TargetHost::Name(name) => Some(name),
            TargetHost::Address(_) => None,
        }
    }
}

/// Characters of a name at most (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 255;

impl FromStr for Target {
    type Err = String;

    /// No error shows what stands before an `@`: a password may have any character in it, `/` and `#` too. Each is one line,
    /// whatever was typed.
    fn from_str(text: &str) -> Result<Target, String> {
        Target::read(text).map_err(|error| {
            let error = match text.rsplit_once('@') {
                None => error,
                Some((_, server)) => format!(
                    "'…@{server}' is no target; give a name and a password apart, as user and password of mqtt and nats, or in a header of a request (Authorization)"
                ),
            };
            Escaped(&error).to_string()
        })
    }
}

impl Target {
    fn read(text: &str) -> Result<Target, String> {
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some((name, rest)) => {
                let found = Scheme::ALL.into_iter().find(|scheme| scheme.name().eq_ignore_ascii_case(name));
                let schemes = Scheme::ALL.map(Scheme::name).join(", ");
                (Some(found.ok_or_else(|| format!("'{name}://': the schemes are {schemes}"))?), rest)
            }
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.contains('#') {
            return Err(format!("'{text}': what follows # is never sent; leave it out"));
        }
        if scheme.is_none() && !path.is_empty() {
            return Err(format!("'{text}': a path needs a scheme before it; {EXAMPLES}"));
        }
        // In a URL % is an escape too, so an interface may stand behind %25 (RFC 6874).
        let unescaped = scheme.map(|_| authority.replacen("%25", "%", 1));
        let authority = unescaped.as_deref().unwrap_or(authority);
        let (host, port) = split_port(authority).ok_or_else(|| format!("'{text}' is no target; {EXAMPLES}"))?;
        let host = host.parse()?;
        // In a URL the port may be empty, and is the scheme's own then (RFC 3986, 3.2.3).
        let port = port.filter(|port| scheme.is_none() || !port.is_empty());
        let ports = match (port, scheme) {
            (Some(port), _) => ports(port)?,
            (None, Some(scheme)) => Ports::new(scheme.default_port(), 1).map_err(|e| e.to_string())?,
            (None, None) => return Err(format!("'{text}' has no port; {EXAMPLES}")),
        };
        let path = Some(path).filter(|path| !path.is_empty() && *path != "/");
        let path = path.map(|path| if path.starts_with('/') { path.to_owned() } else { format!("/{path}") });
        Ok(Target { scheme, host, ports, path })
    }
}

/// The host and the text of the ports. `None` if brackets are not closed, or an IPv6 address has none.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        let host = Some(host).filter(|host| host.contains(':'))?;
        return if port.is_empty() { Some((host, None)) } else { Some((host, Some(port.strip_prefix(':')?))) };
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// Ports such as `8888` or `8888-8987`.
fn ports(text: &str) -> Result<Ports, String> {
    let wrong = || format!("'{text}' are no ports; try 8888 or 8888-8987");
    let number = |word: &str| {
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        word.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(wrong)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    let count = last.checked_sub(first).and_then(|more| more.checked_add(1)).ok_or_else(wrong)?;
    Ports::new(first, count).map_err(|e| e.to_string())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{}://", scheme.name())?;
        }
        write!(f, "{}:{}", self.host, self.ports.first())?;
        if self.ports.count() > 1 {
            write!(f, "-{}", self.ports.last())?;
        }
        f.write_str(self.path.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_typed_is_understood() {
        let target = read("wss://Example.org:8888-8987/a/{n}?b=c");
        assert_eq!((target.scheme, target.name()), (Some(Scheme::Wss), Some("Example.org")));
        assert_eq!((target.ports.first(), target.ports.count()), (8888, 100));
        assert_eq!(target.path.as_deref(), Some("/a/{n}?b=c"));
        for scheme in Scheme::ALL {
            let target = read(&format!("{}://h", scheme.name().to_uppercase()));
            assert_eq!((target.scheme, target.ports.first(), target.path), (Some(scheme), scheme.default_port(), None));
        }
        assert_eq!((read("ws://h:/a"), read("ws://[::1]:")), (read("ws://h/a"), read("ws://[::1]")));
        assert_eq!(read("ws://h/@a").path.as_deref(), Some("/@a"));
        assert_eq!((read("ws://h/").path, read("ws://h?q").path), (None, Some("/?q".to_owned())));
        let target = read("[fe80::1%lo]:80");
        assert_eq!(
            (target.host.to_string(), &*target.url_host(), target.name()),
            ("[fe80::1%1]".into(), "[fe80::1]", None)
        );
        assert_eq!(read("ws://[fe80::1%25lo]:80").host, target.host);
        assert_eq!((read("10.0.0.1:1-2").ports.count(), read("10.0.0.1:1").name()), (2, None));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            "h",
            "h:",
            "h:0",
            "h:5-4",
            "h:1-2-3",
            "h:65536",
            "h:+1",
            "h:1/p",
            "::1:80",
            "[::1",
            "[::1]80",
            "[h]:80",
            "ftp://h",
            "ws://",
            "ws://:80",
            "ws://u:p@h/",
            "ws://u:p@h/#f",
            "u:p@h/a",
            "ws://u:p/w@h/",
            "ws://u:p#w@h/",
            "ws://u:p?w@h/",
            "u:p/w@h:80",
            "//u:p@h:80/",
            "ws:/u:p@h:80",
            "u:p@h://h",
            "ws://h/#f",
            "ws://hé",
            "ws://a b",
            "h h:1",
            "a\nb:80",
            "ws://a\u{1b}[2J",
            "h:8\r0",
            "u:p@h\n",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(!error.is_empty() && !error.contains(char::is_control), "{text}: {error}");
            let secrets = ["u:p", "u@", "'p", "w@"];
            assert!(!text.contains('@') || !secrets.iter().any(|secret| error.contains(secret)), "{text}: {error}");
        }
        let refused = |text: &str| text.parse::<Target>().unwrap_err();
        assert!(refused("[fe80::1%nowhere]:80").contains("no interface nowhere is here"));
        assert!(refused("ws://[fe80::1%25nowhere]/a").contains("no interface nowhere is here"));
        assert!(
            refused("[::1%lo]:80").contains("link-local address") && refused("10.0.0.1%lo:1").contains("link-local")
        );
        let error = format!("ws://{}:80", "a".repeat(10_000)).parse::<Target>().unwrap_err();
        assert_eq!(error, "a name of 10000 characters: a host's has 255 at most; shorten it");
    }

    proptest! {
        #[test]
        fn a_target_is_read_as_it_is_written(
            scheme in prop::option::of(prop::sample::select(Scheme::ALL.to_vec())), host in "[a-z0-9.-]{1,9}|\\[::1\\]|\\[fe80::2%1\\]",
            first in 1u16..=65535, more in 0u16..5, path in "(/[a-z{}?=]{1,9})?",
        ) {
            let last = first.saturating_add(more);
            let ports = if more == 0 { first.to_string() } else { format!("{first}-{last}") };
            let (scheme, path) = match scheme {
                Some(scheme) => (format!("{}://", scheme.name()), path),
                None => (String::new(), String::new()),
            };
            let text = format!("{scheme}{host}:{ports}{path}");
            let target = read(&text);
            prop_assert_eq!(target.ports.count(), usize::from(last - first) + 1);
            prop_assert_eq!(read(&target.to_string()), target);
        }

        #[test]
        fn any_text_is_a_target_or_refused_in_a_line(text in "(ws://)?\\PC{0,30}") {
            match text.parse::<Target>() {
                Ok(target) => prop_assert_eq!(read(&target.to_string()), target),
                Err(error) => prop_assert!(!error.contains('\n')),
            }
        }
    }
}

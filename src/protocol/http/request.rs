//! Requests as they are typed: a path, fields and a body with placeholders.

use std::io::Write;

use crate::protocol::{Exchange, RequestError, SettingError, Settings, Template};

/// Where requests go, for their field `Host`: a name, and the ports over which the connections are spread in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The host as it stands in a URL: a name, an IPv4 address, or an IPv6 address in brackets.
    pub host: String,
    /// The first port.
    pub first_port: u16,
    /// How many ports follow each other, at least 1. Connection number `n` goes to number `n` of them, modulo their number.
    pub ports: u16,
    /// The port that is left out, as it is that of the scheme.
    pub default_port: u16,
}

impl Authority {
    /// Appends `host`, and `:port` unless it is the default one.
    pub fn write(&self, number: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(self.host.as_bytes());
        let port = self.first_port.wrapping_add((number % u64::from(self.ports.max(1))) as u16);
        if port != self.default_port {
            // Writing to memory cannot fail.
            let _ = write!(into, ":{port}");
        }
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority { host: "localhost".to_owned(), first_port: 80, ports: 1, default_port: 80 }
    }
}

/// A request with its placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestTemplate {
    method: &'static str,
    path: Template,
    authority: Authority,
    /// Names and values.
    fields: Vec<(String, Template)>,
    body: Option<Template>,
    /// Whether one of the fields is `Host`.
    has_host: bool,
}

impl RequestTemplate {
    /// Whether a text may be the name of a field, or of a subprotocol (`token` of RFC 9110, 5.6.2).
    pub fn is_token(text: &str) -> bool {
        let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(may_be)
    }

    /// The request of these settings. `own` are the names of fields, in small letters, that the protocol writes itself.
    pub fn new(settings: &Settings, method: &'static str, own: &[&str]) -> Result<RequestTemplate, SettingError> {
        let typed = settings.path.as_deref().unwrap_or("/");
        let path = Template::of_setting("path", typed)?;
        if !typed.starts_with('/') || path.literals().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
            return Err(RequestError::Path { asked: typed.to_owned() }.into());
        }
        let mut fields = Vec::new();
        let mut has_host = false;
        for typed in &settings.headers {
            let refused = |why| RequestError::Header { asked: typed.clone(), why };
            let (name, value) = typed.split_once(':').ok_or_else(|| refused("there is no colon in it"))?;
            if !RequestTemplate::is_token(name) {
                return Err(refused("a name has letters, digits and !#$%&'*+-.^_`|~").into());
            }
            if own.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(refused("the protocol writes this one itself").into());
            }
            let is_host = name.eq_ignore_ascii_case("host");
            if is_host && has_host {
                return Err(refused("a request has one Host").into());
            }
            has_host |= is_host;
            let value = Template::of_setting("header", value.trim())?;
            if value.literals().any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
                return Err(refused("a value has no line breaks and no other control characters").into());
            }
            fields.push((name.to_owned(), value));
        }
        let body = Template::of_optional("body", settings.body.as_deref())?;
        let authority = settings.server.clone().unwrap_or_default();
        Ok(RequestTemplate { method, path, authority, fields, body, has_host })
    }

    /// Appends the request of an exchange to `into`. `more` appends further fields, each with its line break.
    pub fn write(&self, exchange: Exchange, more: impl FnOnce(&mut Vec<u8>), into: &mut Vec<u8>) {
        let line_end = b"\r\n";
        into.extend_from_slice(self.method.as_bytes());
        into.push(b' ');
        self.path.write(exchange, into);
        into.extend_from_slice(b" HTTP/1.1\r\n");
        if !self.has_host {
            into.extend_from_slice(b"Host: ");
            self.authority.write(exchange.number, into);
            into.extend_from_slice(line_end);
        }
        more(into);
        for (name, value) in &self.fields {
            into.extend_from_slice(name.as_bytes());
            into.extend_from_slice(b": ");
            value.write(exchange, into);
            into.extend_from_slice(line_end);
        }
        let Some(body) = &self.body else { return into.extend_from_slice(line_end) };
        // The length of the body stands before it, and is known behind it.
        let at = into.len();
        body.write(exchange, into);
        let length = into.len() - at;
        // Writing to memory cannot fail.
        let _ = write!(into, "Content-Length: {length}\r\n\r\n");
        into[at..].rotate_left(length);
    }

    /// Bytes that it makes at most, with `more` bytes of further fields.
    pub fn longest(&self, more: usize) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.longest() + 4).sum();
        let body = self.body.as_ref().map_or(0, |body| body.longest() + "Content-Length: 65536\r\n".len());
        let line = self.method.len() + self.path.longest() + " HTTP/1.1\r\n".len();
        line + self.authority.host.len() + "Host: :65535\r\n".len() + fields + body + more + 3
    }

    /// Whether the token is in it.
    pub fn has_token(&self) -> bool {
        let fields = self.fields.iter().map(|(_, value)| value);
        fields.chain([&self.path]).chain(&self.body).any(Template::has_token)
    }
}

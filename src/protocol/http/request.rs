//! Requests as they are typed: a path, fields and a body with placeholders.

use std::io::Write;

use crate::protocol::{Exchange, HIDDEN, RequestError, SettingError, Settings, Template, is_secret_field};

/// Where requests go, for their field `Host`: names and ports, over which the connections are spread in turn as their routes
/// are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The hosts as they stand in a URL: a name, or addresses, those of IPv6 in brackets. As many connections as there are
    /// ports go to one of them, and the next to the next.
    pub hosts: Vec<String>,
    /// The first port.
    pub first_port: u16,
    /// How many ports follow each other, at least 1. Connection number `n` goes to number `n` of them, modulo their number.
    pub ports: u16,
    /// The port that is left out, as it is that of the scheme.
    pub default_port: u16,
}

impl Authority {
    /// Appends the host, and `:port` unless it is the default one.
    pub fn write(&self, number: u64, into: &mut Vec<u8>) {
        let (ports, hosts) = (u64::from(self.ports.max(1)), self.hosts.len().max(1) as u64);
        let host = self.hosts.get((number / ports % hosts) as usize);
        into.extend_from_slice(host.map_or(&b""[..], |host| host.as_bytes()));
        let port = self.first_port.wrapping_add((number % ports) as u16);
        if port != self.default_port {
            // Writing to memory cannot fail.
            let _ = write!(into, ":{port}");
        }
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority { hosts: vec!["localhost".to_owned()], first_port: 80, ports: 1, default_port: 80 }
    }
}

/// A field as it was typed, without its value if that is a secret.
fn without_secret(typed: &str) -> String {
    let end = typed.find([':', ' ']).map_or(typed.len(), |end| end + 1);
    let (name, value) = typed.split_at(end);
    if is_secret_field(name) && !value.is_empty() { format!("{} {HIDDEN}", name.trim_end()) } else { typed.to_owned() }
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
            let refused = |why, cure| RequestError::Header { asked: without_secret(typed), why, cure };
            let form = "write it as in 'Name: value'";
            let (name, value) = typed.split_once(':').ok_or_else(|| refused("there is no colon in it", form))?;
            if !RequestTemplate::is_token(name) {
                return Err(refused("a name has letters, digits and !#$%&'*+-.^_`|~", form).into());
            }
            if own.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(refused("the protocol writes this one itself", "leave it out").into());
            }
            let is_host = name.eq_ignore_ascii_case("host");
            if is_host && has_host {
                return Err(refused("a request has one Host", "leave one of them out").into());
            }
            has_host |= is_host;
            let before = typed[..typed.len() - value.trim_start().len()].chars().count();
            let value = Template::of_header(name, before, value.trim())?;
            if value.literals().any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
                let why = "a value has no line breaks and no other control characters";
                return Err(refused(why, "leave them out").into());
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
        let host = self.authority.hosts.iter().map(String::len).max().unwrap_or(0);
        line + host + "Host: :65535\r\n".len() + fields + body + more + 3
    }

    /// Whether the token is in it.
    pub fn has_token(&self) -> bool {
        let fields = self.fields.iter().map(|(_, value)| value);
        fields.chain([&self.path]).chain(&self.body).any(Template::has_token)
    }
}

//! What TLS is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;
use crate::command_error::{CommandError, Result};
use crate::plan::{Scheme, Target};
use crate::tls::handshake::{ClientTls, Pem, TlsConfig, Trust};
use crate::tls_version::TlsVersion;

/// The lowest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VersionName {
    #[value(name = "1.3")]
    Tls13,
    #[value(name = "1.2")]
    Tls12,
}

impl From<VersionName> for TlsVersion {
    fn from(name: VersionName) -> TlsVersion {
        match name {
            VersionName::Tls13 => TlsVersion::Tls13,
            VersionName::Tls12 => TlsVersion::Tls12,
        }
    }
}

#[derive(Debug, Args)]
pub struct ServerTlsArguments {
    /// Speak TLS on every port, with the certificates in FILE (PEM, the server's own first). A connection takes 80
    /// bytes more for it. Repeat it and --tls-key for further names: a client that names a server (SNI) gets the first
    /// certificate for that name, any other client the first of all. SIGHUP then reads the files again, without
    /// dropping anyone.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,
    /// The private key of each --tls-cert, in the same order (PEM, without a password).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,
    /// The lowest version of TLS. With 1.2 clients that do not speak 1.3 are served too, each for 112 bytes instead of
    /// 80, with the suites that are still safe: ECDHE with AES-GCM or ChaCha20-Poly1305.
    #[arg(long, value_enum, default_value_t = VersionName::Tls13, requires = "tls_cert")]
    tls_min: VersionName,
    /// Protocols to negotiate, separated by commas, the best first, such as http/1.1 (ALPN).
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "tls_cert")]
    alpn: Vec<String>,
    /// TLS handshakes at once at most, some 12 kB each; further clients wait. By default as many as a sixteenth of the
    /// memory left has room for, between 64 and 2,048.
    #[arg(long, value_name = "N", requires = "tls_cert")]
    handshakes: Option<u32>,
    /// Bytes kept at most of TLS records that have come in part, up to 16.6 kB for each connection that is sending one. A
    /// connection that would need more is closed. By default a sixteenth of the memory left, and 16 MiB at least.
    #[arg(long, value_name = "BYTES", requires = "tls_cert")]
    incomplete_records: Option<u64>,
    /// The longest time from a connection's accept to its first bytes, from these to the end of its TLS handshake, and from
    /// the beginning of a record until it is whole; 10s by default.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "tls_cert")]
    handshake_timeout: Option<Duration>,
}

impl ServerTlsArguments {
    /// The files that are read.
    pub fn inputs(&self) -> Vec<&Path> {
        self.tls_cert.iter().chain(&self.tls_key).map(PathBuf::as_path).collect()
    }

    /// The server's TLS; `None` without a certificate.
    pub fn config(&self) -> Result<Option<TlsConfig>> {
        if self.tls_cert.len() != self.tls_key.len() {
            return Err(CommandError::usage(
                format!("{} --tls-cert and {} --tls-key", self.tls_cert.len(), self.tls_key.len()),
                "each certificate needs its key",
                "give them in pairs, in the same order",
            ));
        }
        let mut pairs = self.tls_cert.iter().zip(&self.tls_key);
        let Some((cert, key)) = pairs.next() else { return Ok(None) };
        let config = pairs.fold(TlsConfig::files(cert, key), |config, (cert, key)| config.and_files(cert, key));
        let mut config = config.alpn(self.alpn.iter().cloned()).lowest_version(self.tls_min.into());
        if let Some(most) = self.handshakes {
            config = config.handshakes(most);
        }
        if let Some(bytes) = self.incomplete_records {
            config = config.incomplete_records(bytes);
        }
        if let Some(time) = self.handshake_timeout {
            config = config.handshake_timeout(time);
        }
        Ok(Some(config))
    }
}

#[derive(Debug, Args)]
pub struct ClientTlsArguments {
    /// Speak TLS on every connection, as the URLs wss, https and mqtts of --target say too. Full handshakes and
    /// resumed ones are told apart in the report.
    #[arg(long)]
    tls: bool,
    /// The name that the server's certificate must have, and that is sent to it (SNI). By default it is the name in
    /// --target; else the address that the connection goes to, which is not sent.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Protocols to offer, separated by commas, the best first, such as http/1.1 (ALPN).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    alpn: Vec<String>,
    /// Trust the certificate authorities in FILE (PEM); those that this host trusts by default.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Trust any server: neither its certificate nor its name is looked at.
    #[arg(long)]
    insecure: bool,
    /// Certificates of the client, for servers that ask for one (PEM, the client's own first).
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of --cert (PEM, without a password).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The lowest version of TLS. With 1.2 a server that does not speak 1.3 will do too; such a connection takes 112 bytes
    /// instead of 80.
    #[arg(long, value_enum, default_value_t = VersionName::Tls13)]
    tls_min: VersionName,
    /// Make every TLS handshake a full one. By default sessions are resumed where the server gives tickets.
    #[arg(long)]
    no_resumption: bool,
    /// Resume sessions, as is done without it too, and fail if no handshake of the run resumed one: the server gives no
    /// tickets, or takes none.
    #[arg(long, conflicts_with = "no_resumption")]
    pub resume: bool,
    /// How long a TLS handshake may take, and an incomplete record to become whole; 10s by default.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    handshake_timeout: Option<Duration>,
}

impl ClientTlsArguments {
    /// The files that are read.
    pub fn inputs(&self) -> Vec<&Path> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().map(PathBuf::as_path).collect()
    }

    /// The client's TLS on connections to this target, if one was named; `None` without TLS.
    pub fn config(&self, target: Option<&Target>) -> Result<Option<ClientTls>> {
        if !self.tls && !target.and_then(|target| target.scheme).is_some_and(Scheme::has_tls) {
            let resume = self.resume.then(|| "--resume".to_owned());
            return match self.words().into_iter().chain(resume).next() {
                None => Ok(None),
                Some(word) => Err(CommandError::usage(
                    word,
                    "it is for TLS, and the connections have none",
                    "add --tls, or give the target as a URL such as wss://example.org",
                )),
            };
        }
        let mut config = ClientTls::default();
        let name = || target.and_then(Target::name).map(str::to_owned);
        config.server_name = self.sni.clone().or_else(name);
        config.alpn.clone_from(&self.alpn);
        config.lowest_version = self.tls_min.into();
        config.trust = match &self.ca {
            Some(file) => Trust::Authorities(Pem::File(file.clone())),
            None if self.insecure => Trust::Anyone,
            None => Trust::Host,
        };
        config.identity = self.cert.clone().zip(self.key.clone()).map(|(cert, key)| (Pem::File(cert), Pem::File(key)));
        config.resumption = !self.no_resumption;
        config.handshake_timeout = self.handshake_timeout.unwrap_or(config.handshake_timeout);
        Ok(Some(config))
    }

    /// The words that have another process speak TLS likewise. What must be resumed in all is judged here alone.
    pub fn words(&self) -> Vec<String> {
        let flags = [("tls", self.tls), ("insecure", self.insecure), ("no-resumption", self.no_resumption)];
        let files = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
        let mut words: Vec<String> =
            flags.iter().filter(|(_, set)| *set).map(|(name, _)| format!("--{name}")).collect();
        words.extend(files.iter().filter_map(|(name, file)| Some(format!("--{name}={}", file.as_ref()?.display()))));
        words.extend(self.sni.as_ref().map(|name| format!("--sni={name}")));
        words.extend((self.tls_min == VersionName::Tls12).then(|| "--tls-min=1.2".to_owned()));
        words.extend((!self.alpn.is_empty()).then(|| format!("--alpn={}", self.alpn.join(","))));
        let timeout = self.handshake_timeout.map(humantime::format_duration);
        words.extend(timeout.map(|time| format!("--handshake-timeout={time}")));
        words
    }
}

//! The versions of TLS that are spoken.

/// A version of TLS: the lowest that an end speaks, where 1.3 is always the highest, or the one that a handshake has
/// agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// 1.2 (RFC 5246), for peers that do not speak 1.3, with the suites of ECDHE and an AEAD. A connection that agrees on
    /// it takes 112 bytes.
    Tls12,
    /// 1.3 (RFC 8446), the default. A connection takes 80 bytes, or 112 with TLS_AES_256_GCM_SHA384.
    #[default]
    Tls13,
}

impl TlsVersion {
    /// Bytes that must be planned for an established connection where this is the lowest version: two secrets and two
    /// sequence numbers (`tls/record.rs`), of which those of TLS 1.2 are the longer ones.
    pub(crate) const fn connection_bytes(self) -> u64 {
        match self {
            TlsVersion::Tls12 => 112,
            TlsVersion::Tls13 => 80,
        }
    }
}

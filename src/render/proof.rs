//! The protocol of a run and the strength of its proof, in one line: text and page show the same.

use crate::results::document::ClientDocument;

/// The protocol, and what its answers prove of a connection. `None` for a result of an earlier version, which does
/// not say it.
pub fn proof(document: &ClientDocument) -> Option<String> {
    let ClientDocument { protocol, proof, .. } = document;
    let means = match proof.as_str() {
        "" => return None,
        "end-to-end" => ": each answer held what its connection alone was sent",
        "gateway" => ": a gateway may have answered for the service",
        "liveness" => ": answers came, and would look the same on another connection",
        "state" => ": neither FIN nor RST came",
        "none" => ": nothing was asked",
        _ => "",
    };
    Some(format!("protocol {protocol}, proof {proof}{means}"))
}

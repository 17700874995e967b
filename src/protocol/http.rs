//! HTTP/1.1 (RFC 9110 and 9112) as bytes: the heads of requests and responses, without I/O; and `http`, the client's
//! dialect.

pub(crate) mod chunks;
mod client;
mod head;
mod pieces;
mod request;

pub use chunks::{ChunkFault, Chunks, Piece};
pub use client::Http;
pub use head::{
    Body, Fields, LONGEST_HEAD, MOST_FIELDS, Malformed, RequestHead, ResponseHead, has_no_body, names_a_version,
};
pub use pieces::whole_head;
pub use request::{Authority, RequestTemplate};

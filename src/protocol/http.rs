//! HTTP/1.1 (RFC 9110 and 9112) as bytes: the heads of requests and responses, without I/O.

mod head;

pub use head::{Body, Fields, LONGEST_HEAD, MOST_FIELDS, Malformed, RequestHead, ResponseHead};

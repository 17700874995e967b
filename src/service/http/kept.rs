//! The requests that one receive brings, one after the other.

use super::message::Request;
use super::requests::{Next, Requests};
use crate::connections::CloseMode;
use crate::service::ctx::Ctx;

/// Bytes of answers from which on the requests that follow wait until the kernel has taken them. Hundreds of requests may come
/// in one receive, and the answers to all of them would be more than is kept even for a peer that reads.
pub const ANSWERS_AT_ONCE: usize = 16 * 1024;

/// What follows an answer, or the last of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The connection waits for another request.
    GoesOn,
    /// A part of a request has come, or nothing of one; it is `new` if this receive began it.
    Awaits { new: bool },
    /// The answer comes later. Nothing behind this request is answered before.
    Later,
    /// The answers are many, and requests follow. Those wait until the answers are sent.
    Full,
    /// The connection speaks another protocol from here on.
    Leaves,
    /// The connection is to be closed in this way: with `Lingering` behind a request that cannot be answered, as more of
    /// the request may come.
    Ends(CloseMode),
}

/// What one receive brought, and where its answers go.
pub struct Exchange<'a> {
    pub requests: &'a mut Requests,
    /// The key of the request of which a part has come.
    pub key: &'a mut Option<u32>,
    pub data: &'a [u8],
    /// How much of it is used.
    pub at: usize,
    /// Bytes that were sent to the connection before, and that the kernel has not taken.
    pub unsent: usize,
    /// What is sent.
    pub out: &'a mut Vec<u8>,
}

/// Has `handle` answer each request, and answers those that cannot be read. Tells what is to be done after the last, and
/// how many bytes were used.
pub fn serve<'c, S: Default>(
    exchange: &mut Exchange<'_>,
    ctx: &mut Ctx<'c, S>,
    mut handle: impl FnMut(&mut Ctx<'c, S>, &Request<'_>, &mut Vec<u8>) -> After,
) -> After {
    let Exchange { requests, key, data, at, unsent, out } = exchange;
    let mut new = key.is_none();
    // Empty lines alone are no request, and give no connection more time for one.
    let mut after = After::Awaits { new: false };
    while *at < data.len() {
        if key.is_none() && *unsent + out.len() >= ANSWERS_AT_ONCE {
            return After::Full;
        }
        after = match requests.next(key, data, at) {
            Ok(Next::More { waits }) => {
                if waits {
                    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                return if key.is_some() { After::Awaits { new } } else { after };
            }
            Ok(Next::Whole(request)) => {
                ctx.counters().requests.add(1);
                let after = handle(ctx, &request, out);
                requests.free(key);
                new = true;
                after
            }
            Err(fault) => {
                fault.count(ctx.counters());
                fault.response().write(false, Some("close"), out);
                After::Ends(CloseMode::Lingering)
            }
        };
        if after != After::GoesOn {
            break;
        }
    }
    after
}

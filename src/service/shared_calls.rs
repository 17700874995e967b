//! The calls of `Ctx` that the contexts of `Http` and `WebSocket` offer unchanged.

/// Gives a context `$name<'a, S>`, with a field `ctx: Ctx<'a, Conversation<S>>`, the calls of `Ctx` that send nothing.
macro_rules! shared_calls {
    ($name:ident) => {
        impl<S: Default> $name<'_, S> {
            /// As [`Ctx::shard`].
            pub fn shard(&self) -> usize {
                self.ctx.shard()
            }

            /// As [`Ctx::shards`].
            pub fn shards(&self) -> usize {
                self.ctx.shards()
            }

            /// As [`Ctx::now`].
            pub fn now(&self) -> Instant {
                self.ctx.now()
            }

            /// As [`Ctx::is_stopping`].
            pub fn is_stopping(&self) -> bool {
                self.ctx.is_stopping()
            }

            /// As [`Ctx::is_divided`].
            pub fn is_divided(&self) -> bool {
                self.ctx.is_divided()
            }

            /// As [`Ctx::len`].
            #[allow(clippy::len_without_is_empty, reason = "a context is no collection")]
            pub fn len(&self) -> u64 {
                self.ctx.len()
            }

            /// The service's state of a connection.
            pub fn state(&mut self, conn: ConnId) -> Option<&mut S> {
                self.ctx.state(conn).map(|row| &mut row.state)
            }

            /// As [`Ctx::connections`].
            pub fn connections(&self) -> impl Iterator<Item = (ConnId, &S)> {
                self.ctx.connections().map(|(conn, row)| (conn, &row.state))
            }

            /// As [`Ctx::is_asleep`].
            pub fn is_asleep(&self, conn: ConnId) -> bool {
                self.ctx.is_asleep(conn)
            }

            /// As [`Ctx::peer_addr`].
            pub fn peer_addr(&mut self, conn: ConnId) -> io::Result<SocketAddr> {
                self.ctx.peer_addr(conn)
            }

            /// As [`Ctx::local_addr`].
            pub fn local_addr(&mut self, conn: ConnId) -> io::Result<SocketAddr> {
                self.ctx.local_addr(conn)
            }

            /// As [`Ctx::tls`]: within `connected` alone.
            #[cfg(feature = "tls")]
            pub fn tls(&self, conn: ConnId) -> Option<&crate::tls::handshake::TlsAgreed> {
                self.ctx.tls(conn)
            }

            /// As [`Ctx::age`].
            pub fn age(&self, conn: ConnId) -> Option<Duration> {
                self.ctx.age(conn)
            }

            /// As [`Ctx::idle`].
            pub fn idle(&self, conn: ConnId) -> Option<Duration> {
                self.ctx.idle(conn)
            }

            /// As [`Ctx::count`].
            pub fn count(&mut self, counter: CounterId, n: u64) {
                self.ctx.count(counter, n);
            }
        }
    };
}

pub(super) use shared_calls;

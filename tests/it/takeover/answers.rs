//! Answers of HTTP that come while connections leave for a later server.

use c1m::http::{Http, HttpCtx, HttpService, Request, Response};
use c1m::{ConnId, Cores, Ports, Server as Library, ServerEvent};

use super::*;
use crate::http::Client;

/// A request for `/wait` waits for its answer. The first of its connections that leaves has the others answered. A request for
/// `/say` has those answered that wait then.
#[derive(Default)]
struct Neighbours(Vec<ConnId>);

impl HttpService for Neighbours {
    type State = ();
    type Message = ();

    fn request<'r>(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId, request: &'r Request<'r>) -> Response<'r> {
        match request.path() {
            "/wait" => {
                self.0.push(conn);
                return ctx.later(None);
            }
            "/say" => {
                for waiting in self.0.drain(..) {
                    assert!(ctx.answer(waiting, Response::text(200, "here")));
                }
            }
            _ => {}
        }
        Response::text(200, request.path())
    }

    fn hand_over(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId, _: &mut Vec<u8>) {
        for other in self.0.drain(..).filter(|other| *other != conn) {
            assert!(ctx.answer(other, Response::text(200, "gone")));
        }
    }

    fn taken_over(&mut self, ctx: &mut HttpCtx<'_, ()>, conn: ConnId, _: &[u8]) {
        if ctx.is_waiting(conn) {
            self.0.push(conn);
        }
    }
}

/// The body of the next answer.
fn body(client: &mut Client) -> String {
    String::from_utf8(client.answer(true).2).unwrap()
}

/// A connection whose answer is given while another one leaves goes on with what it has asked behind it.
#[test(Network)]
fn an_answer_given_while_a_neighbour_leaves_is_followed_by_the_next() {
    in_own_network(|| {
        let dir = TempDir::new().unwrap();
        let start = || {
            let ports = Ports::new(9_000, 1).unwrap();
            let builder = Library::builder().bind(Ipv4Addr::LOCALHOST).ports(ports).cores(Cores::Count(1));
            let builder = builder.max_connections(100).takeover(dir.path().join("takeover"));
            builder.start(|_| Http::new(Neighbours::default())).unwrap()
        };
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let first = start();
        let mut clients = [(); 3].map(|()| Client::connect(9_000));
        for client in &mut clients {
            client.say(&[get("/wait"), get("/behind")].concat());
        }
        eventually("all wait", || first.counters()[0].requests == 3);
        let second = start();
        let mut told = Vec::new();
        first.wait(|event| told.push(event));
        assert_eq!(told, [ServerEvent::HandingOver]);
        first.join().unwrap();
        let mut other = Client::connect(9_000);
        other.say(&get("/say"));
        assert_eq!(body(&mut other), "/say");
        let mut answers = clients.each_mut().map(|client| [body(client), body(client)]);
        answers.sort();
        assert_eq!(answers, [["gone", "/behind"], ["gone", "/behind"], ["here", "/behind"]]);
        second.stop();
        second.join().unwrap();
    });
}

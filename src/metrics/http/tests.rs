use proptest::prelude::*;

use super::*;

fn answer(request: &str) -> (Status, bool) {
    let (length, reply) = read(request.as_bytes()).unwrap_or_else(|| panic!("no answer to {request:?}"));
    assert!(length <= request.len());
    (reply.status, reply.closes)
}

#[test]
fn each_kind_of_request_has_its_answer() {
    let closed = [
        ("POST /metrics HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n", Status::MethodNotAllowed),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", Status::MethodNotAllowed),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nContent-Length: +1\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nContent-Length:\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n", Status::BodyTooLarge),
        ("GET /metrics HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", Status::BodyTooLarge),
        ("GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Status::BodyTooLarge),
        ("GET /metrics HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", Status::NotImplemented),
        ("GET /metrics HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/2.0\r\n\r\n", Status::UnknownVersion),
        ("GET /metrics\r\n\r\n", Status::BadRequest),
        ("GET /metrics JUNK/1.1\r\n\r\n", Status::BadRequest),
        ("GET /metrics HTTP/1.1\r\nno field\r\n\r\n", Status::BadRequest),
        ("\u{16}\u{3}\u{1}", Status::BadRequest),
        ("GET /metrics HTTP/1.0\r\n\r\n", Status::Ok),
        ("GET /metrics HTTP/1.1\r\nConnection: x, Close\r\n\r\n", Status::Ok),
    ];
    for (request, status) in closed {
        assert_eq!(answer(request), (status, true), "{request:?}");
    }
    let kept = [
        ("GET /metrics HTTP/1.1\r\n\r\n", Status::Ok),
        ("GET /metrics HTTP/1.1\n\n", Status::Ok),
        ("\r\n\nGET /metrics HTTP/1.1\nHost: a\r\n\n", Status::Ok),
        ("HEAD /metrics?name[]=x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Status::Ok),
        ("GET http://127.0.0.1:9187/metrics HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", Status::Ok),
        ("GET HTTP://[::1]/metrics?x HTTP/1.1\r\n\r\n", Status::Ok),
        ("GET http://host HTTP/1.1\r\n\r\n", Status::NotFound),
        ("GET / HTTP/1.1\r\n\r\n", Status::NotFound),
        ("POST /other HTTP/1.1\r\n\r\n", Status::NotFound),
        ("DELETE /metrics HTTP/1.1\r\n\r\n", Status::MethodNotAllowed),
        ("OPTIONS * HTTP/1.1\r\n\r\n", Status::MethodNotAllowed),
        ("CONNECT host:80 HTTP/1.1\r\n\r\n", Status::MethodNotAllowed),
        ("BREW /metrics HTTP/1.1\r\n\r\n", Status::NotImplemented),
    ];
    for (request, status) in kept {
        assert_eq!(answer(request), (status, false), "{request:?}");
    }
}

#[test]
fn the_limits_of_a_head_are_exact() {
    let field = |length: usize| format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(length));
    let around = field(0).len();
    assert_eq!(answer(&field(LONGEST_HEAD - around)), (Status::Ok, false));
    assert_eq!(answer(&field(LONGEST_HEAD - around + 1)), (Status::HeadTooLarge, true));
    assert_eq!(answer(&format!("GET /{}", "a".repeat(LONGEST_HEAD))), (Status::TargetTooLong, true));
    assert_eq!(answer(&"\r\n".repeat(LONGEST_HEAD / 2)).0, Status::TargetTooLong);
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MOST_FIELDS + 1));
    assert_eq!(answer(&many), (Status::HeadTooLarge, true));
}

#[test]
fn the_format_is_the_scrapers_preferred_one() {
    let of = |accept: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\n{accept}\r\n");
        read(request.as_bytes()).unwrap().1.format
    };
    let prometheus = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
    assert_eq!(of(prometheus), Format::OpenMetrics);
    assert_eq!(of("Accept: Application/OpenMetrics-Text\r\n"), Format::OpenMetrics);
    assert_eq!(of("Accept: text/plain;q=0.2\r\nAccept: application/openmetrics-text;q=0.9\r\n"), Format::OpenMetrics);
    for plain in ["", "Accept: */*\r\n", "Accept: application/openmetrics-text;q=0\r\n", "Accept: ;;q=,\r\n"] {
        assert_eq!(of(plain), Format::Prometheus, "{plain}");
    }
    assert_eq!(of("Accept: application/openmetrics-text;q=0.2,text/plain;q=0.3\r\n"), Format::Prometheus);
}

proptest! {
    /// Consecutive requests are answered one by one, each as if it came alone.
    #[test]
    fn a_request_ends_where_the_next_begins(first in 0..4_usize, second in 0..4_usize) {
        let requests = [
            "GET /metrics HTTP/1.1\r\n\r\n",
            "HEAD / HTTP/1.1\nHost: a\n\n",
            "\r\nPUT /metrics HTTP/1.1\r\nA: b\r\n\r\n",
            "BREW /metrics HTTP/1.1\n\r\n",
        ];
        let both = format!("{}{}", requests[first], requests[second]);
        let (length, reply) = read(both.as_bytes()).unwrap();
        prop_assert_eq!((length, Some((length, reply))), (requests[first].len(), read(requests[first].as_bytes())));
        prop_assert_eq!(read(&both.as_bytes()[length..]), read(requests[second].as_bytes()));
    }
}

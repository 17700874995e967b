//! Echoes over TLS 1.3, and reads its certificate again whenever it is told to, without closing a connection.
//!
//!     openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
//!         -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
//!         -keyout key.pem -out cert.pem
//!     cargo run --release --example tls_echo -- 9000 cert.pem key.pem
//!     openssl s_client -connect localhost:9000 -CAfile cert.pem -quiet
//!
//! The service knows nothing of TLS: it is given what was sent, and an established connection takes 80 bytes more. A line
//! on standard input reads the files again, and the end of the input stops the server.

use c1m::{Echo, PortSharing, Ports, Result, Server, TlsConfig};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let port = words.next().and_then(|word| word.parse().ok()).unwrap_or(9000);
    let (Some(certificate), Some(key)) = (words.next(), words.next()) else {
        eprintln!("usage: tls_echo PORT CERTIFICATE.pem KEY.pem");
        std::process::exit(2);
    };
    let builder = Server::builder().ports(Ports::new(port, 1)?).port_sharing(PortSharing::All);
    let builder = builder.max_connections(100_000).tls(TlsConfig::files(certificate, key));
    let server = builder.start(|_shard| Echo)?;
    println!("ready on port {port}");
    for _line in std::io::stdin().lines() {
        match server.reload_certificates() {
            Ok(()) => println!("new connections get what the files hold now"),
            // A file is half written, say: all goes on with what was read before.
            Err(error) => println!("{error}; the certificate from before stays"),
        }
    }
    server.stop();
    server.join().map(drop)
}

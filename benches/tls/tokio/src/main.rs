//! tokio-rustls as its own example of an echo server has it: a task and a buffer per connection.

use std::sync::Arc;

use bench_support::contract::{self, Contract, RECORD_BUFFER_BYTES, TlsFiles};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, version};

fn main() {
    let contract = Contract::from_command_line();
    let acceptor = acceptor(&TlsFiles::from_environment());
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(contract.cores.len()).enable_io().build().expect("a runtime can be started");
    runtime.block_on(async {
        let listeners = contract.listen_on(contract.all_ports()).into_iter().map(TcpListener::from_std);
        let serving = |listener| tokio::spawn(serve(listener, acceptor.clone()));
        let accepting: Vec<_> = listeners.map(|listener| serving(listener.expect("it listens"))).collect();
        contract::ready();
        for task in accepting {
            task.await.expect("accepting ends only with the process");
        }
    });
}

fn acceptor(files: &TlsFiles) -> TlsAcceptor {
    let chain = CertificateDer::from_pem_file(&files.certificate).expect("the certificate can be read");
    let key = PrivateKeyDer::from_pem_file(&files.key).expect("the key can be read");
    let config = ServerConfig::builder_with_protocol_versions(&[&version::TLS13]).with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(vec![chain], key).expect("the key is the certificate's")))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(echo(stream, acceptor.clone()))),
            Err(error) => eprintln!("accepting: {error}"),
        }
    }
}

async fn echo(stream: TcpStream, acceptor: TlsAcceptor) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut buffer = vec![0; RECORD_BUFFER_BYTES];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 || stream.write_all(&buffer[..count]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

//! tokio as its own example of an echo server has it: the multi-thread runtime, a worker per core, a
//! task and a buffer of 1,024 bytes per connection.

use bench_support::contract::{self, BUFFER_BYTES, Contract};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn main() {
    let contract = Contract::from_command_line();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(contract.cores.len()).enable_io().build().expect("a runtime can be started");
    runtime.block_on(async {
        let listeners = contract.listen_on(contract.all_ports()).into_iter().map(TcpListener::from_std);
        let accepting: Vec<_> = listeners.map(|listener| tokio::spawn(serve(listener.expect("it listens")))).collect();
        contract::ready();
        for task in accepting {
            task.await.expect("accepting ends only with the process");
        }
    });
}

async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(echo(stream))),
            Err(error) => eprintln!("accepting: {error}"),
        }
    }
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 || stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

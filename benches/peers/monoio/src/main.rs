//! monoio as its own example of an echo server has it: a runtime on io_uring per core, a task and a
//! buffer per connection.

use bench_support::contract::{self, BUFFER_BYTES, Contract};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

fn main() {
    let contract = Contract::from_command_line();
    let shares: Vec<_> = (0..contract.cores.len()).map(|place| contract.listen_on(contract.ports_of(place))).collect();
    contract::ready();
    std::thread::scope(|scope| {
        for (&core, listeners) in contract.cores.iter().zip(shares) {
            scope.spawn(move || {
                contract::pin(core);
                let runtime = RuntimeBuilder::<IoUringDriver>::new().build();
                runtime.expect("a runtime can be started").block_on(serve(listeners));
            });
        }
    });
}

/// Accepts on every listener of a core, for ever.
async fn serve(listeners: Vec<std::net::TcpListener>) {
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| monoio::spawn(accept(TcpListener::from_std(listener).expect("it listens"))))
        .collect();
    for task in accepting {
        task.await;
    }
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(monoio::spawn(echo(stream))),
            Err(error) => eprintln!("accepting: {error}"),
        }
    }
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (read, filled) = stream.read(buffer).await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        let (written, mut filled) = stream.write_all(filled).await;
        if written.is_err() {
            return;
        }
        filled.clear();
        buffer = filled;
    }
}

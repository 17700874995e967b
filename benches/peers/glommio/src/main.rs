//! glommio as its own example of an echo server has it: an executor pinned to each core, a task and a
//! buffer per connection.

use std::ops::Range;

use bench_support::contract::{self, BUFFER_BYTES, Contract};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

fn main() {
    let contract = &Contract::from_command_line();
    let (listening, every_core_listens) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for (place, &core) in contract.cores.iter().enumerate() {
            let listening = listening.clone();
            scope.spawn(move || {
                let executor = LocalExecutorBuilder::new(Placement::Fixed(core)).make();
                executor.expect("an executor can be started").run(async {
                    let listeners = listen(contract, contract.ports_of(place));
                    listening.send(()).expect("main waits for every core");
                    serve(listeners).await;
                });
            });
        }
        contract.cores.iter().for_each(|_| every_core_listens.recv().expect("a core says why it failed"));
        contract::ready();
    });
}

fn listen(contract: &Contract, ports: Range<u16>) -> Vec<TcpListener> {
    let listener = |port| TcpListener::bind(contract.socket_address(port));
    ports.map(|port| listener(port).unwrap_or_else(|error| panic!("listening on port {port}: {error}"))).collect()
}

/// Accepts on every listener of a core, for ever.
async fn serve(listeners: Vec<TcpListener>) {
    let accepting: Vec<_> = listeners.into_iter().map(|listener| glommio::spawn_local(accept(listener))).collect();
    for task in accepting {
        task.await;
    }
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => drop(glommio::spawn_local(echo(stream)).detach()),
            Err(error) => eprintln!("accepting: {error}"),
        }
    }
}

async fn echo(mut stream: TcpStream) {
    // Nothing is lost without it: then the last message would wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 || stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

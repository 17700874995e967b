//! What a message costs beside the kernel: its token, its row, its latency.
//!
//!     cargo bench --bench micro
//!
//! A shard with 100,000 echoes a second has 10 µs for each, so anything here that takes more than a
//! few nanoseconds would be worth a look.

use std::hint::black_box;
use std::time::Duration;

use c1m::internal::connections::slot_map::SlotMap;
use c1m::internal::latency::Latency;
use c1m::internal::token::{ConnId, Operation, Token};
use criterion::{Criterion, criterion_group, criterion_main};

/// Slots of a ring where `nofile` is 20,000.
const SLOTS: u32 = 20_000;

/// A step through the slots that meets all of them, none soon after its neighbour.
const STRIDE: u32 = 7_919;

/// Slots in an order in which connections might become readable.
fn scattered() -> impl Iterator<Item = u32> {
    (0..).map(|step: u32| step.wrapping_mul(STRIDE) % SLOTS)
}

fn tokens(criterion: &mut Criterion) {
    let mut slots = scattered();
    criterion.bench_function("token: pack and unpack", |bencher| {
        bencher.iter(|| {
            let token = Token { slot: slots.next().unwrap_or(0), generation: 7, operation: Operation::Receive };
            Token::unpack(black_box(token.pack()))
        });
    });
    criterion.bench_function("token: from a connection's name, another operation, unpacked", |bencher| {
        bencher.iter(|| {
            let conn = black_box(ConnId::new(3, slots.next().unwrap_or(0), 7));
            Token::unpack(black_box(conn.token(Operation::Receive).with(Operation::Send).pack()))
        });
    });
}

fn table(criterion: &mut Criterion) {
    let mut table: SlotMap<()> = SlotMap::new(SLOTS);
    criterion.bench_function("slot map: claim and release", |bencher| {
        bencher.iter(|| {
            let slot = table.claim(black_box(0));
            slot.inspect(|slot| table.release(*slot))
        });
    });
    let mut full: SlotMap<()> = SlotMap::new(SLOTS);
    while let Some(slot) = full.claim(0) {
        full.row_mut(slot).lifecycle.establish();
    }
    let mut slots = scattered();
    criterion.bench_function("slot map: find a slot among 20,000, mark it busy and idle", |bencher| {
        bencher.iter(|| {
            let row = full.occupant(black_box(slots.next().unwrap_or(0)), 0)?;
            black_box(&mut row.lifecycle).receive();
            Some(black_box(&mut row.lifecycle).operation_ended())
        });
    });
}

fn histogram(criterion: &mut Criterion) {
    let mut latency = Latency::new().expect("a histogram can be made");
    let mut slots = scattered();
    criterion.bench_function("histogram: record", |bencher| {
        bencher.iter(|| latency.record(Duration::from_micros(u64::from(slots.next().unwrap_or(0)))));
    });
    let other = latency.clone();
    criterion.bench_function("histogram: merge a shard's", |bencher| {
        bencher.iter(|| latency.merge(black_box(&other)));
    });
    criterion.bench_function("histogram: p99.9", |bencher| {
        bencher.iter(|| latency.percentile(black_box(99.9)));
    });
    let text = other.encode().expect("a histogram can be packed");
    criterion.bench_function("histogram: to text", |bencher| bencher.iter(|| other.encode()));
    criterion.bench_function("histogram: from text", |bencher| bencher.iter(|| Latency::decode(black_box(&text))));
}

criterion_group!(benches, tokens, table, histogram);
criterion_main!(benches);

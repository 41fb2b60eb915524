//! How fast the read queue reads a file on this disk, by engine, depth and piece size:
//! `cargo run --release -p lowtide-mapping --example read_speed -- FILE [GIB]`.
//!
//! Requests of 8 MiB in file order into a ring, as streaming asks for them. The disk decides; run it twice,
//! and compare inside one run only.

use std::time::{Duration, Instant};

use lowtide_mapping::{
    Arena, Backend, DirectFile, Error, Priority, QueueOptions, ReadQueue, ReadRequest,
    open_model_file,
};

const REQUEST_BYTES: usize = 8 << 20;
const SLOTS: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which file?")?;
    let gib: u64 = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let model = open_model_file(path)?;
    let bytes = model.size().min(gib << 30) / REQUEST_BYTES as u64 * REQUEST_BYTES as u64;
    println!("{}, {bytes} bytes", DirectFile::of(model.file())?.mode());
    println!("| engine | depth | piece MiB | registered | GB/s | ms of CPU per GB |");
    println!("|---|---|---|---|---|---|");
    for (backend, register) in
        [(Backend::IoUring, false), (Backend::IoUring, true), (Backend::Threads, false)]
    {
        for (depth, piece_bytes) in
            [(1, 8 << 20), (4, 8 << 20), (4, 4 << 20), (8, 4 << 20), (8, 1 << 20), (32, 1 << 20)]
        {
            let options = QueueOptions { backend, depth, piece_bytes, max_requests: SLOTS };
            let mut queue = match ReadQueue::new(vec![DirectFile::of(model.file())?], options) {
                Err(Error::UringRefused { source }) => {
                    println!("no io_uring: {source}");
                    continue;
                }
                other => other?,
            };
            let arena = Arena::new(SLOTS * REQUEST_BYTES)?;
            let registered = register && queue.register(&[&arena]);
            let (begin, cpu) = (Instant::now(), cpu_ms()?);
            stream(&mut queue, arena, bytes)?;
            let gigabytes = bytes as f64 / 1e9;
            let (speed, cpu) = (gigabytes / begin.elapsed().as_secs_f64(), cpu_ms()? - cpu);
            println!(
                "| {backend:?} | {depth} | {} | {registered} | {speed:.2} | {:.0} |",
                piece_bytes >> 20,
                cpu as f64 / gigabytes
            );
        }
    }
    Ok(())
}

fn stream(queue: &mut ReadQueue, arena: Arena, bytes: u64) -> Result<(), Error> {
    let mut slots = arena.into_slots(REQUEST_BYTES);
    let mut offset = 0;
    let mut done = 0;
    while done < bytes {
        while offset < bytes
            && let Some(slot) = slots.pop()
        {
            let priority = Priority::Demand;
            let length = REQUEST_BYTES;
            queue.submit(ReadRequest { token: offset, file: 0, offset, length, slot, priority })?;
            offset += length as u64;
        }
        let Some(read) = queue.wait_complete(Duration::from_secs(30))? else { break };
        done += read.result?.len() as u64;
        slots.push(read.slot);
    }
    Ok(())
}

/// Processor time of this process, in milliseconds (fields 14 and 15 of `/proc/self/stat`, ticks of 10 ms).
fn cpu_ms() -> Result<u64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? * 10)
}

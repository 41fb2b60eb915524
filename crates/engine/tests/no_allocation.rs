//! Decoding allocates nothing once the session is made and the model has come in: whatever a token needs
//! was claimed at the start. It counts every allocation of every thread, so it is alone in its process and its
//! own `main`: the test harness allocates for its "running for over 60 seconds", and with scalar kernels this
//! takes longer.

mod common;

use std::alloc::System;
use std::path::Path;

use lowtide_bench::synth::{self, Mix, Shape, Spec};
use lowtide_engine::{Engine, Io, LoadOptions, Logits, MemoryLimit, Model, Session};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONTEXT: usize = 256;

/// Tokens before counting: a first pass brings the model in, the first ring goes once around.
const WARM_UP: u32 = 4;
const COUNTED: u32 = 12;

/// Beyond the floor; the model has 256 MB, far more than what the process lets go of between asking for the
/// floor and planning (buffers of the file's writer).
const ROOM_BYTES: u64 = 20_000_000;

fn allocations(path: &Path, streamed: bool, io: Io) -> (usize, bool) {
    let mut options = LoadOptions {
        io,
        context: Some(CONTEXT),
        threads: Some(2),
        prompt_tokens: 8,
        ..LoadOptions::default()
    };
    if streamed {
        options.memory = MemoryLimit::Bytes(common::floor(path, &options) + ROOM_BYTES);
    }
    let mut engine = Engine::new(Model::open(path).unwrap(), &options).unwrap();
    let mut session = Session::new(&engine).unwrap();
    let mut pass = |session: &mut Session, ids: &[u32]| {
        session.forward(&mut engine, ids, Logits::Last, &mut |_, _| {}).unwrap();
    };
    pass(&mut session, &[1, 2, 3, 4, 5, 6, 7, 8]);
    (0..WARM_UP).for_each(|id| pass(&mut session, &[id]));
    let region = Region::new(ALLOCATOR);
    (0..COUNTED).for_each(|id| pass(&mut session, &[id]));
    let counted = region.change();
    let streams = engine.budget().streamed_bytes > 0;
    (counted.allocations + counted.reallocations, streams)
}

fn main() {
    for (name, q4) in [("llama", true), ("qwen3moe-tiny", false), ("gemma3-tiny", false)] {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("allocation-{name}.gguf"));
        let spec = if q4 {
            let mix = Mix::named("q4_0").unwrap();
            Spec::new(Shape::of_bytes(256_000_000, &mix).unwrap(), mix)
        } else {
            Spec::named(name, "q8_0").unwrap()
        };
        synth::write_file(&spec, &path, &mut |_| {}).unwrap();
        let (resident, streams) = allocations(&path, false, Io::Auto);
        assert_eq!((resident, streams), (0, false), "{name}, all resident");
        if q4 {
            for io in [Io::Direct, Io::Mapped] {
                let (streamed, streams) = allocations(&path, true, io);
                assert_eq!((streamed, streams), (0, true), "{name}, streamed, {io:?}");
            }
        }
        std::fs::remove_file(path).unwrap();
        println!("{name}: decoding allocates nothing");
    }
}

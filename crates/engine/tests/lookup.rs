//! Between the budget that holds all that a pass reads whole and the one that holds the embedding too.

use std::path::Path;

use lowtide_bench::synth::{self, Spec};
use lowtide_engine::{Engine, Forecaster, LoadOptions, Logits, MemoryLimit, Model, Session};
use lowtide_mapping::{Mapping, evict_file};

const CONTEXT: usize = 128;

fn last_logits(engine: &mut Engine) -> Vec<u32> {
    let mut session = Session::new(engine).unwrap();
    // Rows from all over the embedding.
    let ids: Vec<u32> = (0..64).map(|i| i * 1_999).collect();
    session.forward(engine, &ids, Logits::Last, &mut |_, _| {}).unwrap();
    session.last_logits().iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn an_embedding_without_room_is_read_past_the_page_cache() {
    let mix = synth::Mix::named("q4_0").unwrap();
    let mut shape = synth::Shape::of_bytes(96_000_000, &mix).unwrap();
    // Far more than the disk's readahead, behind the header and around a row.
    shape.vocabulary = 128_000;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lookup.gguf");
    synth::write_file(&Spec::new(shape, mix), &path, &mut |_| {}).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let mapping = Mapping::of_file(&file).unwrap();
    let header = lowtide_gguf::Gguf::parse(mapping.as_slice()).unwrap();
    let embedding = header.tensor("token_embd.weight").unwrap();
    let bytes = embedding.range().unwrap();
    let range = usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap();

    let options = LoadOptions { threads: Some(2), context: Some(CONTEXT), ..Default::default() };
    let opened = Model::open(&path).unwrap();
    let forecaster = Forecaster::new(&opened, &options).unwrap();
    let all_but_rows = forecaster.resident_bytes(forecaster.floor_bytes().unwrap()).unwrap();
    drop(forecaster);
    drop(opened);
    let resident = || {
        let pages = mapping.resident_pages(range.clone()).unwrap();
        pages.resident_bytes() as f64 / range.len() as f64
    };
    let run = |memory| {
        evict_file(&file).unwrap();
        let options = LoadOptions { memory, ..options };
        let mut engine = Engine::new(Model::open(&path).unwrap(), &options).unwrap();
        let logits = last_logits(&mut engine);
        assert_eq!(engine.budget().streamed_bytes, 0, "{memory:?}");
        (logits, engine.store().plan().rows_are_resident(), resident())
    };
    let half = range.len() as u64 / 2;
    let (expected, all, share) = run(MemoryLimit::Auto);
    assert!(all && share > 0.0, "{share}");
    let (logits, all, share) = run(MemoryLimit::Bytes(all_but_rows + half));
    assert!(!all && share < 0.1, "{share}");
    assert!(logits == expected);
    std::fs::remove_file(path).unwrap();
}

//! Synthetic files are what they claim: exact shapes, valid headers, the scale wanted, the same bytes from the same spec.

use std::collections::HashSet;
use std::sync::Arc;

use lowtide_bench::synth::{self, Error, Mix, Shape, Skew, Spec, Vocab};
use lowtide_gguf::split::{SplitInfo, TensorTable};
use lowtide_gguf::{GgmlType, Gguf};
use lowtide_kernels::format::{Format, dequantize};

fn tiny(shape: &str, mix: &str) -> Vec<u8> {
    synth::to_bytes(&Spec::named(shape, mix).unwrap()).unwrap()
}

/// Parameters as the models' publishers count them.
#[test]
fn shapes_have_the_parameters_of_their_models() {
    let published: [(&str, u64); 13] = [
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-30b", 32_528_943_616),
        ("llama-70b", 68_976_648_192),
        ("llama-8b", 8_030_261_248),
        ("llama-405b", 405_853_388_800),
        ("mistral-7b", 7_241_732_096),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
        ("olmoe-1b-7b", 6_919_161_856),
        ("deepseek-v2-lite", 15_706_484_224),
    ];
    for (name, parameters) in published {
        let plan = synth::plan(&Spec::named(name, "q4_0").unwrap()).unwrap();
        let factors = plan.tensors.iter().find(|t| t.name == "rope_freqs.weight");
        let factors = factors.map_or(0, |t| t.dims[0]);
        assert_eq!(plan.parameters() - factors, parameters, "{name}");
    }
}

/// The file that everyone measures with: llama.cpp's quantiser makes 18.36 GB of the 30B model.
#[test]
fn the_30b_file_has_its_size() {
    let plan = synth::plan(&Spec::named("llama-30b", "q4_0").unwrap()).unwrap();
    assert!((18_350_000_000..18_370_000_000).contains(&plan.layout.file_bytes));
}

#[test]
fn every_tiny_shape_is_a_valid_file_in_every_mix() {
    let shapes = Shape::NAMES.iter().filter(|name| name.ends_with("-tiny"));
    for shape in shapes.filter(|&&name| name != "deepseek2-tiny") {
        for mix in ["f32", "q8_0", "q4_k_m", "mxfp4_moe"] {
            let file = tiny(shape, mix);
            let gguf = Gguf::parse(&file).unwrap_or_else(|e| panic!("{shape} {mix}: {e}"));
            let architecture = gguf.require_str("general.architecture").unwrap();
            let layers = gguf.require_u32(&format!("{architecture}.block_count")).unwrap();
            let last = format!("blk.{}.attn_output.weight", layers - 1);
            gguf.tensor_data(gguf.require_tensor(&last).unwrap()).unwrap();
            assert!(gguf.tensor(&format!("blk.{layers}.attn_output.weight")).is_none());
            let tokens = gguf.require_array("tokenizer.ggml.tokens").unwrap();
            assert_eq!(tokens.len(), gguf.require_tensor("token_embd.weight").unwrap().dim(1));
        }
    }
}

#[test]
fn the_same_spec_gives_the_same_bytes_and_another_seed_others() {
    let spec = Spec { seed: 7, ..Spec::named("llama-tiny", "q4_0").unwrap() };
    let first = synth::to_bytes(&spec).unwrap();
    assert_eq!(first, synth::to_bytes(&spec).unwrap());
    let other = synth::to_bytes(&Spec { seed: 8, ..spec.clone() }).unwrap();
    assert_eq!(first.len(), other.len());
    let differing = first.iter().zip(&other).filter(|(a, b)| a != b).count();
    assert!(differing > first.len() / 2, "{differing} of {}", first.len());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut seen = 0;
    let written = synth::write_file(&spec, &path, &mut |bytes| seen = bytes).unwrap();
    assert_eq!((written, seen), (first.len() as u64, first.len() as u64));
    assert!(std::fs::read(&path).unwrap() == first, "the direct writer and the plain one differ");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file is left");
}

/// A file of many pieces and buffers, whose last is not whole: pooled tensors, padding, and the cut at the end.
#[test]
fn a_file_of_many_pieces_is_the_same_through_both_writers() {
    let shape = Shape { vocabulary: 48_000, layers: 2, ..Shape::named("llama-1b").unwrap() };
    let spec = Spec::new(shape, Mix::named("q4_k_m").unwrap());
    let expected = synth::to_bytes(&spec).unwrap();
    assert!(expected.len() > 100 << 20 && !expected.len().is_multiple_of(4096));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    synth::write_file(&spec, &path, &mut |_| ()).unwrap();
    let found = std::fs::read(&path).unwrap();
    let first = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!((found.len(), first), (expected.len(), None));
}

/// Shards hold the same tensors as the one file, and merge.
#[test]
fn a_split_set_holds_what_the_file_holds() {
    let spec = Spec::named("qwen3-tiny", "q4_k_m").unwrap();
    let whole = synth::to_bytes(&spec).unwrap();
    let whole = Gguf::parse(&whole).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for count in [1, 2, 3, 7] {
        let base = dir.path().join("set");
        let paths = synth::write_shards(&spec, count, &base, &mut |_| ()).unwrap();
        assert_eq!(paths.len(), usize::from(count));
        let files: Vec<Vec<u8>> = paths.iter().map(|p| std::fs::read(p).unwrap()).collect();
        let shards: Vec<Gguf<'_>> = files.iter().map(|f| Gguf::parse(f).unwrap()).collect();
        let table = TensorTable::merge(&shards).unwrap();
        assert_eq!(table.entries().len(), whole.tensors().len());
        for (found, expected) in table.entries().iter().zip(whole.tensors()) {
            assert_eq!(found.tensor.name(), expected.name());
            let data = shards[found.shard as usize].tensor_data(&found.tensor).unwrap();
            assert!(data == whole.tensor_data(expected).unwrap(), "{}", expected.name());
        }
        let info = SplitInfo::read(&shards[0]).unwrap().unwrap();
        let name = paths[0].file_name().unwrap().to_str().unwrap();
        let names = lowtide_gguf::split::shard_names(name, info).unwrap();
        assert!(names.iter().zip(&paths).all(|(n, p)| p.ends_with(n)));
    }
    assert!(matches!(synth::plan_shards(&spec, 0), Err(Error::Shape { .. })));
    assert!(matches!(synth::plan_shards(&spec, u16::MAX), Err(Error::Shape { .. })));
    let most = whole.tensors().len() as u16;
    assert!(synth::plan_shards(&spec, most).unwrap().iter().all(|p| p.tensors.len() == 1));
}

fn floats(gguf: &Gguf<'_>, name: &str) -> (Vec<f32>, usize) {
    let tensor = gguf.require_tensor(name).unwrap();
    let data = gguf.tensor_data(tensor).unwrap();
    let ty = tensor.ggml_type();
    let format = Format::ALL.iter().find(|f| GgmlType::from_name(f.name()).unwrap() == ty).unwrap();
    let width = tensor.row_len() as usize;
    let mut out = vec![0.0; tensor.elements() as usize];
    dequantize(*format, data, &mut out).unwrap();
    (out, width)
}

/// In each topic's column the routers hold Zipf's logarithms, in an order of the layer's own, and the embedding
/// the mark of a token's topic.
#[test]
fn a_skew_is_in_routers_embedding_and_output_and_needs_experts() {
    let mut spec = Spec::named("qwen3moe-tiny", "q4_k_m").unwrap();
    spec.shape.skew = Some(Skew { exponent: 1.0, topics: 2 });
    let file = synth::to_bytes(&spec).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    for layer in 0..2 {
        let (router, width) = floats(&gguf, &format!("blk.{layer}.ffn_gate_inp.weight"));
        for topic in 0..2 {
            let mut column: Vec<f32> = router.iter().skip(topic).step_by(width).copied().collect();
            assert!(!column.is_sorted_by(|a, b| a >= b), "favourites are not in order of number");
            column.sort_by(|a, b| b.total_cmp(a));
            // ln 1, ln 2 and ln 4 are evenly spaced.
            let steps = (column[0] - column[1], column[1] - column[3]);
            assert!((steps.0 / steps.1 - 1.0).abs() < 1e-3 && steps.0 > 0.0, "{column:?}");
        }
    }
    for name in ["token_embd.weight", "output.weight"] {
        let (rows, width) = floats(&gguf, name);
        let tokens = rows.len() / width;
        for (token, row) in rows.chunks(width).enumerate() {
            let own = token * 2 / tokens;
            assert!(row[own] > 0.0 && row[1 - own] == 0.0, "{name}: {token} {:?}", &row[..2]);
        }
    }
    let mut dense = Spec::named("llama-tiny", "q4_0").unwrap();
    dense.shape.skew = spec.shape.skew;
    assert!(matches!(synth::plan(&dense), Err(Error::Shape { .. })));
}

#[test]
fn failures_leave_nothing_behind() {
    let spec = Spec::named("llama-tiny", "q4_0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = synth::write_file(&spec, &dir.path().join("no/such/dir.gguf"), &mut |_| ());
    assert!(matches!(error, Err(Error::Io { .. })));
    let occupied = dir.path().join("occupied");
    std::fs::create_dir(&occupied).unwrap();
    let error = synth::write_file(&spec, &occupied, &mut |_| ());
    assert!(matches!(error, Err(Error::Io { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(matches!(Spec::named("llama-8000b", "q4_0"), Err(Error::Name { kind: "shape", .. })));
    assert!(matches!(Spec::named("llama-7b", "q4_x"), Err(Error::Name { .. })));
    assert!(matches!(Spec::named("llama-7b", "i32"), Err(Error::Name { .. })));
    let uneven = Shape { kv_heads: 3, ..Shape::named("llama-tiny").unwrap() };
    let uneven = Spec::new(uneven, Mix::pure(GgmlType::F32));
    assert!(matches!(synth::plan(&uneven), Err(Error::Shape { .. })));
}

#[test]
fn sizes_are_met() {
    for (bytes, mix) in [
        (300_000_000, "q4_0"),
        (2_000_000_000, "q4_0"),
        (700 << 20, "q8_0"),
        (40_000_000_000, "q4_k_m"),
        (400_000_000_000, "q4_0"),
    ] {
        let mix = Mix::named(mix).unwrap();
        let shape = Shape::of_bytes(bytes, &mix).unwrap();
        let plan = synth::plan(&Spec::new(shape.clone(), mix)).unwrap();
        let ratio = plan.layout.file_bytes as f64 / bytes as f64;
        assert!((0.97..1.03).contains(&ratio), "{bytes}: {ratio} {shape:?}");
        assert!(shape.embedding == shape.heads * shape.head);
    }
    assert!(Shape::of_bytes(1000, &Mix::pure(GgmlType::Q4_0)).is_err());
    assert!(Shape::of_bytes(u64::MAX, &Mix::pure(GgmlType::Q4_0)).is_err());
}

/// Decoded by the engine's own kernels, matrices have mean 0 and the standard deviation that keeps activations ordinary: 1 / sqrt(row).
#[test]
fn blocks_decode_to_the_scale_wanted() {
    for &format in Format::ALL {
        let ty = GgmlType::from_name(format.name()).unwrap();
        let spec = Spec::new(Shape::named("llama-tiny").unwrap(), Mix::pure(ty));
        let file = synth::to_bytes(&spec).unwrap();
        let gguf = Gguf::parse(&file).unwrap();
        let tensor = gguf.require_tensor("blk.1.ffn_down.weight").unwrap();
        assert_eq!(tensor.ggml_type(), ty);
        let mut values = vec![0f32; tensor.elements() as usize];
        let data = gguf.tensor_data(tensor).unwrap();
        dequantize(format, data, &mut values).unwrap();
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        let scale = square.sqrt() * (tensor.row_len() as f64).sqrt();
        assert!((0.93..1.07).contains(&scale), "{ty}: {scale}");
        assert!(mean.abs() < 0.05 * square.sqrt(), "{ty}: mean {mean} of {}", square.sqrt());
    }
}

fn strings<'a>(gguf: &Gguf<'a>, key: &str) -> Vec<&'a [u8]> {
    gguf.require_array(key).unwrap().strings().unwrap().collect()
}

/// A header with 1000 tokens of which the control tokens stand last, as Qwen has them.
fn vocabulary_source() -> Vec<u8> {
    let mut texts: Vec<String> = (0..990).map(|i| format!("t{i}")).collect();
    texts.extend((990..1000).map(|i| format!("<|c{i}|>")));
    let types: Vec<i32> = (0..1000).map(|i| if i < 990 { 1 } else { 3 }).collect();
    let scores: Vec<f32> = (0..1000u16).map(|i| -f32::from(i)).collect();
    let mut writer = lowtide_gguf::write::HeaderWriter::new();
    writer
        .str("general.architecture", "llama")
        .str("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &types)
        .f32s("tokenizer.ggml.scores", &scores)
        .strings("tokenizer.ggml.merges", &["t 1", "t1 t2", "t3 t999"])
        .u32("tokenizer.ggml.eos_token_id", 999)
        .u32("tokenizer.ggml.bos_token_id", 5)
        .str("tokenizer.chat_template", "{{ 1 }}");
    writer.finish().unwrap().header
}

fn with_vocabulary(source: Vec<u8>, size: u64) -> Vec<u8> {
    let shape = Shape { vocabulary: size, layers: 1, ..Shape::named("llama-tiny").unwrap() };
    let spec = Spec {
        vocab: Vocab::Header(Arc::from(source)),
        ..Spec::new(shape, Mix::named("q4_0").unwrap())
    };
    synth::to_bytes(&spec).unwrap()
}

#[test]
fn a_cut_vocabulary_keeps_its_special_tokens_and_possible_merges() {
    let file = with_vocabulary(vocabulary_source(), 400);
    let gguf = Gguf::parse(&file).unwrap();
    let tokens = strings(&gguf, "tokenizer.ggml.tokens");
    assert_eq!(tokens.len(), 400);
    assert_eq!(
        (tokens[389], tokens[390], tokens[399]),
        (&b"t389"[..], &b"<|c990|>"[..], &b"<|c999|>"[..])
    );
    assert_eq!(gguf.require_u32("tokenizer.ggml.eos_token_id"), Ok(399));
    assert_eq!(gguf.require_u32("tokenizer.ggml.bos_token_id"), Ok(5));
    let types = gguf.require_array("tokenizer.ggml.token_type").unwrap();
    assert_eq!(types.ints().unwrap().nth(399), Some(3));
    let scores = gguf.require_array("tokenizer.ggml.scores").unwrap();
    assert_eq!(scores.f32s().unwrap().nth(399), Some(-999.0));
    assert_eq!(gguf.require_str("tokenizer.chat_template"), Ok("{{ 1 }}"));
    // "t 1" has no token "t", "t1 t2" makes no token "t1t2", "t3 t999" refers to a token that is gone.
    assert!(strings(&gguf, "tokenizer.ggml.merges").is_empty());
}

#[test]
fn a_padded_vocabulary_has_unused_tokens() {
    let file = with_vocabulary(vocabulary_source(), 1200);
    let gguf = Gguf::parse(&file).unwrap();
    let tokens = strings(&gguf, "tokenizer.ggml.tokens");
    assert_eq!(tokens.len(), 1200);
    assert_eq!((tokens[999], tokens[1000]), (&b"<|c999|>"[..], &b"<|unused_0|>"[..]));
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 1200);
    assert_eq!(gguf.require_u32("tokenizer.ggml.eos_token_id"), Ok(999));
    let types = gguf.require_array("tokenizer.ggml.token_type").unwrap();
    assert_eq!(types.ints().unwrap().skip(1000).collect::<HashSet<_>>(), HashSet::from([5]));
}

#[test]
fn the_built_in_vocabulary_is_whole() {
    let file = tiny("llama-tiny", "q4_0");
    let gguf = Gguf::parse(&file).unwrap();
    let tokens = strings(&gguf, "tokenizer.ggml.tokens");
    let known: HashSet<&[u8]> = tokens.iter().copied().collect();
    assert_eq!(known.len(), tokens.len());
    let merges = strings(&gguf, "tokenizer.ggml.merges");
    assert!(merges.len() > 50, "{}", merges.len());
    for merge in merges {
        let space = merge.iter().position(|&b| b == b' ').unwrap();
        let joined = [&merge[..space], &merge[space + 1..]].concat();
        assert!(known.contains(&merge[..space]) && known.contains(&merge[space + 1..]));
        assert!(known.contains(joined.as_slice()));
    }
}

/// With `LOWTIDE_TEST_MODELS` set: the real vocabulary, cut to 32000 as the large synthetic files have it.
#[test]
fn a_real_vocabulary_is_cut() {
    let Ok(dir) = std::env::var("LOWTIDE_TEST_MODELS") else {
        println!("LOWTIDE_TEST_MODELS is not set: no real vocabulary cut");
        return;
    };
    let path = std::path::Path::new(&dir).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let shape = Shape { vocabulary: 32_000, layers: 1, ..Shape::named("llama-tiny").unwrap() };
    let spec = Spec { vocab: Vocab::Of(path), ..Spec::new(shape, Mix::named("q4_0").unwrap()) };
    let file = synth::to_bytes(&spec).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let tokens: HashSet<&[u8]> = strings(&gguf, "tokenizer.ggml.tokens").into_iter().collect();
    assert_eq!(tokens.len(), 32_000);
    let merges = strings(&gguf, "tokenizer.ggml.merges");
    assert!((30_000..32_000).contains(&merges.len()), "{}", merges.len());
    assert_eq!(gguf.require_u32("tokenizer.ggml.eos_token_id"), Ok(2));
    assert_eq!(gguf.require_str("tokenizer.ggml.pre"), Ok("smollm"));
}

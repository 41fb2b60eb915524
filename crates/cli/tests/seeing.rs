//! `lowtide map`, `fit` and `doctor`: shapes of their documents, and figures that must be equal to
//! the kernel's own.

mod common;

use std::path::{Path, PathBuf};

use common::{Folder, assert_error, lowtide, run, tiny};
use lowtide_gguf::GgmlType;
use lowtide_gguf::write::HeaderWriter;
use lowtide_mapping::{Mapping, evict_file};
use serde_json::Value;

const PAGE: u64 = 4096;

fn json(command: &mut std::process::Command) -> Value {
    let ran = run(command.arg("--json"));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    serde_json::from_str(&ran.stdout).unwrap()
}

/// A model of a family that lowtide does not know: two layers, 4 MiB of weights each.
fn foreign(folder: &Folder) -> PathBuf {
    let mut writer = HeaderWriter::new();
    writer.str("general.architecture", "tidepool").str("general.name", "x");
    writer.tensor("token_embd.weight", &[256, 100], GgmlType::F32);
    for layer in 0..2 {
        writer.tensor(&format!("blk.{layer}.attn_q.weight"), &[1024, 512], GgmlType::F32);
        writer.tensor(&format!("blk.{layer}.ffn_up_exps.weight"), &[1024, 512], GgmlType::F32);
        writer.tensor(&format!("blk.{layer}.attn_norm.weight"), &[1024], GgmlType::F32);
    }
    let layout = writer.finish().unwrap();
    let mut file = layout.header;
    file.resize(layout.file_bytes as usize, 7);
    let path = folder.join("foreign.gguf");
    std::fs::write(&path, file).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    path
}

/// A model in two files, a layer in each; the path of the first.
fn split(folder: &Folder) -> PathBuf {
    for no in 0..2u16 {
        let mut writer = HeaderWriter::new();
        writer.u16("split.no", no).u16("split.count", 2).i32("split.tensors.count", 2);
        writer.tensor(&format!("blk.{no}.ffn_up.weight"), &[1024, 64], GgmlType::F32);
        let layout = writer.finish().unwrap();
        let mut file = layout.header;
        file.resize(layout.file_bytes as usize, 1);
        std::fs::write(folder.join(&format!("m-0000{}-of-00002.gguf", no + 1)), file).unwrap();
    }
    folder.join("m-00001-of-00002.gguf")
}

#[test]
fn a_split_set_is_one_model() {
    let folder = Folder::new();
    let path = split(&folder);
    let document = json(lowtide(folder.path()).arg("map").arg(&path));
    let files = document["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    let bytes: u64 = files.iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
    assert_eq!(document["totals"]["file_bytes"], bytes);
    assert_eq!(document["model"]["layers"], 2);
    let second = &document["tensors"].as_array().unwrap()[3];
    assert_eq!((&second["name"], &second["file"]), (&"blk.1.ffn_up.weight".into(), &1.into()));
    std::fs::remove_file(folder.join("m-00002-of-00002.gguf")).unwrap();
    assert_error(&run(lowtide(folder.path()).arg("map").arg(&path)), 2);
}

/// The file, mapped by this process, with `bytes` of it from the middle on in the page tables.
fn mapped(path: &Path, bytes: u64) -> Mapping {
    let file = std::fs::File::open(path).unwrap();
    let mapping = Mapping::of_file(&file).unwrap();
    let start = mapping.len() / 2;
    mapping.populate(start..start + bytes as usize).unwrap();
    mapping
}

#[test]
fn a_process_that_maps_the_model_is_seen_to_the_page() {
    let folder = Folder::new();
    let path = foreign(&folder);
    let mapping = mapped(&path, 40 * PAGE);
    let own = mapping.mapped_pages(0..mapping.len()).unwrap();
    let document = json(
        lowtide(folder.path())
            .arg("map")
            .arg(&path)
            .arg("--pid")
            .arg(std::process::id().to_string()),
    );
    let totals = &document["totals"];
    assert_eq!(totals["resident_bytes"], own.resident_bytes());
    assert_eq!(totals["smaps_rss_bytes"], own.resident_bytes());
    assert!(own.count() >= 40, "{}", own.count());
    let mapped_bytes = (mapping.len() as u64).next_multiple_of(PAGE);
    assert_eq!(totals["mapped_bytes"], mapped_bytes);
    let tables = document["page_tables"]["present"]["l0"].as_u64().unwrap();
    assert!((1..=2).contains(&tables), "{tables} tables for 160 KiB");
    let sum: u64 = document["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| tensor["resident_bytes"].as_u64().unwrap())
        .sum();
    // Padding between tensors lies on pages too, less than a page in all here.
    assert!(own.resident_bytes() - sum < PAGE, "{sum} of {}", own.resident_bytes());
}

#[test]
fn what_is_evicted_is_not_cached_and_what_is_read_is() {
    let folder = Folder::new();
    let path = foreign(&folder);
    let total = std::fs::metadata(&path).unwrap().len();
    std::fs::read(&path).unwrap();
    let document = json(lowtide(folder.path()).arg("map").arg(&path));
    assert_eq!(document["totals"]["cached_bytes"], total.next_multiple_of(PAGE));
    assert_eq!(document["totals"]["resident_bytes"], 0);
    assert_eq!(document["totals"]["file_bytes"], total);
    assert_eq!(document["model"]["architecture"], "tidepool");
    assert_eq!(document["layers"].as_array().unwrap().len(), 2);
    evict_file(&std::fs::File::open(&path).unwrap()).unwrap();
    let document = json(lowtide(folder.path()).arg("map").arg(&path));
    let cached = document["totals"]["cached_bytes"].as_u64().unwrap();
    // The header has just been read, and the kernel reads some ahead of it.
    assert!(cached < total / 2, "{cached} of {total}");
    let tensors = document["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 8);
    let norm = tensors.iter().find(|t| t["name"] == "blk.1.attn_norm.weight").unwrap();
    assert_eq!(
        (&norm["layer"], &norm["bytes"], &norm["format"]),
        (&1.into(), &4096.into(), &"F32".into())
    );
    let offset = norm["offset"].as_u64().unwrap();
    assert_eq!(norm["first_page"], offset / PAGE);
    assert_eq!(norm["last_page"], (offset + 4095) / PAGE);
}

#[test]
fn pictures_are_written_and_pipes_stay_plain() {
    let folder = Folder::new();
    let path = foreign(&folder);
    let (svg, png) = (folder.join("a.svg"), folder.join("a.png"));
    let ran = run(lowtide(folder.path())
        .arg("map")
        .arg(&path)
        .arg("--svg")
        .arg(&svg)
        .arg("--png")
        .arg(&png));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(!ran.stdout.contains('\x1b'), "colour in a pipe");
    for wanted in ["blk.1.ffn_up_exps.weight", "experts up", "VmPTE", "page cache"] {
        assert!(ran.stdout.contains(wanted), "{wanted} is missing in:\n{}", ran.stdout);
    }
    let widest = ran.stdout.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 160, "{widest} columns");
    let text = std::fs::read_to_string(&svg).unwrap();
    assert!(text.starts_with("<svg ") && text.trim_end().ends_with("</svg>"));
    assert_eq!(text.matches("<text").count(), text.matches("</text>").count());
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&png).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    assert_eq!(reader.info().width, 1200);
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    // Strip and grid have the colours of the kinds that are there.
    for colour in [[0x00, 0x72, 0xb2], [0x00, 0x9e, 0x73], [0xcc, 0x79, 0xa7]] {
        let count = pixels.as_chunks::<3>().0.iter().filter(|pixel| **pixel == colour).count();
        assert!(count > 200, "{count} pixels of {colour:?}");
    }
}

#[test]
fn what_cannot_be_mapped_is_an_error_of_three_lines() {
    let folder = Folder::new();
    let path = foreign(&folder);
    let own = std::process::id().to_string();
    for arguments in [&["--pid", "4194304"][..], &["--pid", own.as_str()], &["--pid", "0"]] {
        assert_error(&run(lowtide(folder.path()).arg("map").arg(&path).args(arguments)), 2);
    }
    let text = folder.join("text.gguf");
    std::fs::write(&text, "no model").unwrap();
    assert_error(&run(lowtide(folder.path()).arg("map").arg(&text)), 2);
}

#[test]
fn fit_has_the_shape_that_was_agreed_and_run_accepts_its_floor() {
    let folder = Folder::new();
    let path = tiny::write(&folder, None);
    let document = json(lowtide(folder.path()).arg("fit").arg(&path));
    assert_eq!(document["fits"], true);
    let floor = document["floor_bytes"].as_u64().unwrap();
    for speeds in ["decode_tok_s", "prefill_tok_s"] {
        let pair: Vec<f64> = serde_json::from_value(document[speeds].clone()).unwrap();
        assert!(pair.len() == 2 && 0.0 < pair[0] && pair[0] <= pair[1], "{speeds}: {pair:?}");
    }
    assert_eq!(document["read_bytes_per_token"], 0, "all of it stays");
    let budget = &document["budget"];
    let parts = ["pinned", "ring", "expert_cache", "kv", "scratch", "vocab", "reserve"];
    let sum: u64 = parts.iter().map(|part| budget[format!("{part}_bytes")].as_u64().unwrap()).sum();
    assert!(sum <= budget["total_bytes"].as_u64().unwrap());
    assert_eq!(document["context_max"], 512);
    // Below its floor it says no, and why; a little above, a run begins.
    let no = json(lowtide(folder.path()).arg("fit").arg(&path).args(["--memory", "1MB"]));
    assert_eq!((&no["fits"], &no["budget"]), (&false.into(), &Value::Null));
    assert!(no["reason"].as_str().unwrap().contains("floor"), "{no}");
    let enough = (floor + (4 << 20)).to_string();
    let ran = run(lowtide(folder.path()).arg("run").arg(&path).args([
        "--memory",
        &enough,
        "--raw",
        "--max-tokens",
        "1",
        "hello",
    ]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn doctor_names_every_part_with_a_verdict() {
    let folder = Folder::new();
    let path = foreign(&folder);
    let document = json(lowtide(folder.path()).arg("doctor").arg(&path));
    let checks = document["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "direct, io_uring",
            "direct, threads",
            "mapped",
            "io_uring",
            "file system",
            "readahead",
            "memory bandwidth",
            "instructions",
            "processors",
            "memory",
            "control group",
            "huge pages",
            "mlock limit"
        ]
    );
    for check in checks {
        let verdict = check["verdict"].as_str().unwrap();
        assert!(["good", "fair", "poor", "unknown"].contains(&verdict), "{check}");
        let is_mended = !check["mend"].is_null();
        assert!(is_mended || matches!(verdict, "good" | "unknown"), "no mend: {check}");
    }
}

//! `lowtide inspect`: text and JSON, of sound, odd and broken files.

mod common;

use std::io::Read;
use std::process::Stdio;

use common::{Folder, assert_error, lowtide, run, small_model};
use lowtide_gguf::GgmlType;
use lowtide_gguf::write::HeaderWriter;

#[test]
fn a_model_is_shown_with_long_arrays_cut() {
    let folder = Folder::new();
    let path = folder.join("model.gguf");
    std::fs::write(&path, small_model()).unwrap();
    let ran = run(lowtide(folder.path()).arg("inspect").arg(&path));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    for wanted in
        ["\"llama\"", "\"token0\", \"token1\"", "...", "token_embd.weight", "32 x 100", "Q4_0"]
    {
        assert!(ran.stdout.contains(wanted), "{wanted} is missing:\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("token99"), "a long array is cut");
    assert!(!ran.stdout.contains('\x1b'), "escapes of the file do not reach the terminal");
    let full = run(lowtide(folder.path()).args(["inspect", "--full"]).arg(&path));
    assert!(full.stdout.contains("token99"));
}

#[test]
fn the_json_document_has_these_fields() {
    let folder = Folder::new();
    let path = folder.join("model.gguf");
    std::fs::write(&path, small_model()).unwrap();
    let ran = run(lowtide(folder.path()).args(["inspect", "--json"]).arg(&path));
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["architecture"], "llama");
    assert_eq!(document["version"], 3);
    assert_eq!(document["parameters"], 32 * 100 + 32);
    assert_eq!(document["file_bytes"], small_model().len());
    assert_eq!(document["metadata"]["llama.rope.freq_base"], 10_000.0);
    let tokens = &document["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!((&tokens["array"], &tokens["length"]), (&"str".into(), &100.into()));
    assert_eq!(tokens["values"].as_array().unwrap().len(), 6);
    let tensor = &document["tensors"][0];
    assert_eq!(tensor["name"], "token_embd.weight");
    assert_eq!((&tensor["type"], &tensor["bytes"]), (&"Q4_0".into(), &1800.into()));
    assert_eq!(tensor["dims"], serde_json::json!([32, 100]));
    let full = run(lowtide(folder.path()).args(["inspect", "--json", "--full"]).arg(&path));
    let document: serde_json::Value = serde_json::from_str(&full.stdout).unwrap();
    let tokens = &document["metadata"]["tokenizer.ggml.tokens"]["values"];
    assert_eq!(tokens.as_array().unwrap().len(), 100);
}

#[test]
fn block_formats_nobody_knows_are_shown_by_number() {
    let folder = Folder::new();
    let path = folder.join("model.gguf");
    let mut file = small_model();
    // The type id of the first tensor: after its name, the count of dimensions and two of them.
    let name = b"token_embd.weight";
    let at = file.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    assert_eq!(file[at..at + 4], GgmlType::Q4_0.0.to_le_bytes());
    file[at..at + 4].copy_from_slice(&4711_u32.to_le_bytes());
    std::fs::write(&path, file).unwrap();
    let ran = run(lowtide(folder.path()).arg("inspect").arg(&path));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("type 4711"), "{}", ran.stdout);
    let ran = run(lowtide(folder.path()).args(["inspect", "--json"]).arg(&path));
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["tensors"][0]["type_id"], 4711);
    assert!(document["tensors"][0]["type"].is_null() && document["tensors"][0]["bytes"].is_null());
}

/// Part `no` (from 0) of a set of two: one tensor in each.
fn part(no: u32, tensor: &str) -> Vec<u8> {
    let mut writer = HeaderWriter::new();
    if no == 0 {
        writer.str("general.architecture", "llama");
    }
    writer.u16("split.no", no as u16).u16("split.count", 2).i32("split.tensors.count", 2);
    writer.tensor(tensor, &[32, 10 * (u64::from(no) + 1)], GgmlType::F32);
    let layout = writer.finish().unwrap();
    let mut file = layout.header;
    file.resize(layout.file_bytes as usize, 0);
    file
}

#[test]
fn a_split_set_is_shown_as_one_model() {
    let folder = Folder::new();
    let (a, b) = (part(0, "token_embd.weight"), part(1, "output_norm.weight"));
    let path = |no: u32| folder.join(&format!("set-0000{no}-of-00002.gguf"));
    std::fs::write(path(1), &a).unwrap();
    std::fs::write(path(2), &b).unwrap();
    // Whichever part is named.
    for named in [path(1), path(2)] {
        let ran = run(lowtide(folder.path()).args(["inspect", "--json"]).arg(&named));
        let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(document["path"], path(1).to_str().unwrap());
        assert_eq!(document["architecture"], "llama");
        assert_eq!(document["file_bytes"], a.len() + b.len());
        assert_eq!(document["parameters"], 320 + 640);
        assert_eq!(document["types"][0]["bytes"], 4 * (320 + 640));
        let tensors = document["tensors"].as_array().unwrap();
        assert_eq!((tensors.len(), &tensors[1]["name"]), (2, &"output_norm.weight".into()));
        assert_eq!(tensors[1]["file"], 1);
        assert_eq!(document["files"][1]["bytes"], b.len());
    }
    let ran = run(lowtide(folder.path()).arg("inspect").arg(path(1)));
    for wanted in ["2 files", "set-00002-of-00002.gguf", "output_norm.weight", "960 parameters"] {
        assert!(ran.stdout.contains(wanted), "{wanted} is missing:\n{}", ran.stdout);
    }
    std::fs::remove_file(path(2)).unwrap();
    let ran = run(lowtide(folder.path()).arg("inspect").arg(path(1)));
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("set-00002-of-00002.gguf"), "{}", ran.stderr);
    std::fs::write(path(2), part(1, "token_embd.weight")).unwrap();
    assert_error(&run(lowtide(folder.path()).arg("inspect").arg(path(1))), 2);
}

#[test]
fn headers_larger_than_the_first_read_are_read_whole() {
    let folder = Folder::new();
    let path = folder.join("vocabulary.gguf");
    let tokens: Vec<String> = (0..200_000).map(|i| format!("a longer token {i}")).collect();
    let mut writer = HeaderWriter::new();
    writer.str("general.architecture", "none").strings("tokenizer.ggml.tokens", &tokens);
    let layout = writer.finish().unwrap();
    assert!(layout.header.len() > 4 << 20);
    std::fs::write(&path, layout.header).unwrap();
    let ran = run(lowtide(folder.path()).arg("inspect").arg(&path));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("[str; 200000]"), "{}", ran.stdout);
}

#[test]
fn a_document_is_written_as_it_is_made() {
    let folder = Folder::new();
    let path = folder.join("vocabulary.gguf");
    let tokens: Vec<String> = (0..200_000).map(|i| format!("a longer token {i}")).collect();
    let mut writer = HeaderWriter::new();
    writer.str("general.architecture", "none").strings("tokenizer.ggml.tokens", &tokens);
    std::fs::write(&path, writer.finish().unwrap().header).unwrap();
    let mut command = lowtide(folder.path());
    command.args(["inspect", "--json", "--full"]).arg(&path).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    // When the first of it is there, the rest of a document made beforehand would be as well.
    let mut first = [0; 64 << 10];
    out.read_exact(&mut first).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let mut text = first.to_vec();
    out.read_to_end(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let values = &document["metadata"]["tokenizer.ggml.tokens"]["values"];
    assert_eq!(values[199_999], "a longer token 199999");
    assert!(peak < 30_000, "{peak} kB for a header of 5 MB");
}

#[test]
fn broken_files_are_named_with_the_place() {
    let folder = Folder::new();
    let path = folder.join("broken.gguf");
    let whole = small_model();
    for (bytes, wanted) in [
        (&b""[..], "empty"),
        (b"PK\x03\x04 and so on, a zip file", "GGUF"),
        (&whole[..100], "offset"),
        (&whole[..whole.len() - 1], "ends"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let ran = run(lowtide(folder.path()).arg("inspect").arg(&path));
        assert_error(&ran, 2);
        assert!(ran.stderr.contains("broken.gguf"), "{}", ran.stderr);
        assert!(ran.stderr.contains(wanted), "{wanted} not in\n{}", ran.stderr);
    }
}

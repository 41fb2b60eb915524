//! `lowtide inspect`: what a file says about itself. Reads the header only, so that models whose
//! family or block formats are unknown can be looked at as well.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use lowtide_gguf::{ArrayRef, GgmlType, Gguf, TensorInfo, Value};
use serde::Serialize;
use serde_json::json;

use crate::args::InspectArgs;
use crate::failure::one_line;
use crate::header::Header;
use crate::human::{self, Align, Table};
use crate::output::Stdout;
use crate::store::{Store, resolve};

/// Elements of an array that are shown unless all are asked for.
const ELEMENTS_SHOWN: usize = 6;
/// Characters of a text that are shown unless all are asked for.
const CHARACTERS_SHOWN: usize = 120;

/// Prints a model's header.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let path = resolve::model(&Store::locate(), &args.model)?;
    let header = Header::read(&path)?;
    let gguf = header.gguf()?;
    if args.json {
        Stdout::lock().json(&document(&path, &gguf, args.full))?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    text(&mut out, &path, &gguf, args.full)?;
    out.finish()?;
    Ok(())
}

/// What a kind of blocks takes.
#[derive(Default, Clone, Copy)]
struct Share {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

fn shares(gguf: &Gguf<'_>) -> BTreeMap<u32, Share> {
    let mut shares: BTreeMap<u32, Share> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let share = shares.entry(tensor.ggml_type().0).or_default();
        share.tensors += 1;
        share.elements = share.elements.saturating_add(tensor.elements());
        share.bytes = share.bytes.saturating_add(tensor.byte_len().unwrap_or(0));
    }
    shares
}

fn type_name(ty: GgmlType) -> String {
    ty.name().map_or_else(|| format!("type {}", ty.0), str::to_owned)
}

fn parameters(gguf: &Gguf<'_>) -> u64 {
    gguf.tensors().iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.elements()))
}

fn text(out: &mut impl Write, path: &Path, gguf: &Gguf<'_>, full: bool) -> io::Result<()> {
    writeln!(
        out,
        "{}  {}, GGUF version {}, alignment {}",
        one_line(&path.to_string_lossy()),
        human::bytes(gguf.file_bytes()),
        gguf.version(),
        gguf.alignment()
    )?;
    writeln!(out, "\nmetadata: {} keys", gguf.keys().len())?;
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Left]);
    for entry in gguf.keys() {
        let (kind, value) = (kind(&entry.value()), shown(&entry.value(), full));
        table.row([one_line(entry.key()), kind, value]);
    }
    table.write(out, "  ")?;
    writeln!(
        out,
        "\ntensors: {}, {} parameters, data from byte {}",
        gguf.tensors().len(),
        human::count(parameters(gguf)),
        gguf.data_offset()
    )?;
    let columns = [Align::Left, Align::Left, Align::Left, Align::Right, Align::Right];
    let mut table = Table::new(&columns);
    for tensor in gguf.tensors() {
        table.row(tensor_row(tensor));
    }
    table.write(out, "  ")?;
    writeln!(out, "\nby type")?;
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Right, Align::Right]);
    for (id, share) in shares(gguf) {
        let tensors = format!("{} tensors", human::grouped(share.tensors));
        let size = match GgmlType(id).layout() {
            Some(_) => human::bytes(share.bytes),
            None => "unknown size".to_owned(),
        };
        table.row([type_name(GgmlType(id)), tensors, human::count(share.elements), size]);
    }
    table.write(out, "  ")
}

fn tensor_row(tensor: &TensorInfo<'_>) -> [String; 5] {
    let dims: Vec<String> = tensor.dims().iter().map(u64::to_string).collect();
    [
        one_line(tensor.name()),
        type_name(tensor.ggml_type()),
        dims.join(" x "),
        tensor.byte_len().map_or_else(|_| "?".to_owned(), human::bytes),
        format!("@{}", human::grouped(tensor.offset())),
    ]
}

/// `u32`, `[string; 49152]`.
fn kind(value: &Value<'_>) -> String {
    match value {
        Value::Array(array) => format!("[{}; {}]", array.element_type(), array.len()),
        other => other.value_type().to_string(),
    }
}

fn shown(value: &Value<'_>, full: bool) -> String {
    match value {
        Value::String(bytes) => quoted(bytes, full),
        Value::Array(array) => {
            let limit = if full { usize::MAX } else { ELEMENTS_SHOWN };
            let elements = array.values().take(limit);
            let mut text = elements.map(|v| shown(&v, full)).collect::<Vec<_>>().join(", ");
            if array.len() > limit as u64 {
                text.push_str(", ...");
            }
            format!("[{text}]")
        }
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        other => other.as_int().map_or_else(String::new, |v| v.to_string()),
    }
}

/// In quotes, escaped, cut at a character.
fn quoted(bytes: &[u8], full: bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    let limit = if full { usize::MAX } else { CHARACTERS_SHOWN };
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], bytes.len()),
        None => format!("{text:?}"),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    path: String,
    file_bytes: u64,
    version: u32,
    alignment: u32,
    architecture: Option<&'a str>,
    parameters: u64,
    header_bytes: u64,
    data_offset: u64,
    metadata: serde_json::Map<String, serde_json::Value>,
    tensors: Vec<TensorDocument<'a>>,
    types: Vec<TypeDocument>,
}

#[derive(Serialize)]
struct TensorDocument<'a> {
    name: &'a str,
    r#type: Option<&'static str>,
    type_id: u32,
    dims: &'a [u64],
    offset: u64,
    /// Unknown where the type is.
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct TypeDocument {
    r#type: Option<&'static str>,
    type_id: u32,
    tensors: u64,
    parameters: u64,
    bytes: Option<u64>,
}

fn document<'a>(path: &Path, gguf: &'a Gguf<'a>, full: bool) -> Document<'a> {
    let metadata =
        gguf.keys().iter().map(|entry| (entry.key().to_owned(), json_value(&entry.value(), full)));
    let tensors = gguf.tensors().iter().map(|tensor| TensorDocument {
        name: tensor.name(),
        r#type: tensor.ggml_type().name(),
        type_id: tensor.ggml_type().0,
        dims: tensor.dims(),
        offset: tensor.offset(),
        bytes: tensor.byte_len().ok(),
    });
    let types = shares(gguf).into_iter().map(|(id, share)| TypeDocument {
        r#type: GgmlType(id).name(),
        type_id: id,
        tensors: share.tensors,
        parameters: share.elements,
        bytes: GgmlType(id).layout().map(|_| share.bytes),
    });
    Document {
        path: path.to_string_lossy().into_owned(),
        file_bytes: gguf.file_bytes(),
        version: gguf.version(),
        alignment: gguf.alignment(),
        architecture: gguf.get_str("general.architecture").ok().flatten(),
        parameters: parameters(gguf),
        header_bytes: gguf.header_bytes(),
        data_offset: gguf.data_offset(),
        metadata: metadata.collect(),
        tensors: tensors.collect(),
        types: types.collect(),
    }
}

/// Scalars as they are; arrays as `{"array", "length", "values"}`, the values cut where long.
fn json_value(value: &Value<'_>, full: bool) -> serde_json::Value {
    match value {
        Value::String(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Array(array) => json_array(array, full),
        // JSON has no NaN and no infinities: null.
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::U64(v) => json!(v),
        other => json!(other.as_int().and_then(|v| i64::try_from(v).ok())),
    }
}

fn json_array(array: &ArrayRef<'_>, full: bool) -> serde_json::Value {
    let limit = if full { usize::MAX } else { ELEMENTS_SHOWN };
    let values: Vec<_> = array.values().take(limit).map(|value| json_value(&value, full)).collect();
    json!({ "array": array.element_type().name(), "length": array.len(), "values": values })
}

//! `lowtide inspect`: what a file says about itself. Reads the header only, so that models whose
//! family or block formats are unknown can be looked at as well. Of a split set all parts are shown
//! as the one model that they are.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use lowtide_gguf::split::{ShardTensor, TensorTable};
use lowtide_gguf::{ArrayRef, GgmlType, Gguf, Value};
use serde::{Serialize, Serializer};

use crate::args::InspectArgs;
use crate::failure::{Failure, STATUS_INPUT, one_line};
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
    let headers = Header::read_set(&path)?;
    let ggufs = headers.iter().map(Header::gguf).collect::<Result<Vec<_>>>()?;
    let set = Set {
        paths: headers.iter().map(Header::path).collect(),
        table: TensorTable::merge(&ggufs)
            .map_err(|error| Failure::from_lines(&error, STATUS_INPUT).about(path.display()))?,
        ggufs: &ggufs,
    };
    let mut out = Stdout::lock();
    if args.json {
        out.json(&set.document(args.full))?;
        return Ok(());
    }
    set.text(&mut out, args.full)?;
    out.finish()?;
    Ok(())
}

/// A model: one file, or the parts of a split set in order.
struct Set<'a> {
    paths: Vec<&'a Path>,
    /// The first holds all metadata.
    ggufs: &'a [Gguf<'a>],
    table: TensorTable<'a>,
}

/// What a kind of blocks takes.
#[derive(Default, Clone, Copy)]
struct Share {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

fn type_name(ty: GgmlType) -> String {
    ty.name().map_or_else(|| format!("type {}", ty.0), str::to_owned)
}

impl Set<'_> {
    fn first(&self) -> &Gguf<'_> {
        &self.ggufs[0]
    }

    fn is_split(&self) -> bool {
        self.ggufs.len() > 1
    }

    fn file_bytes(&self) -> u64 {
        self.ggufs.iter().map(Gguf::file_bytes).sum()
    }

    fn parameters(&self) -> u64 {
        let elements = self.table.entries().iter().map(|entry| entry.tensor.elements());
        elements.fold(0, u64::saturating_add)
    }

    fn shares(&self) -> BTreeMap<u32, Share> {
        let mut shares: BTreeMap<u32, Share> = BTreeMap::new();
        for ShardTensor { tensor, .. } in self.table.entries() {
            let share = shares.entry(tensor.ggml_type().0).or_default();
            share.tensors += 1;
            share.elements = share.elements.saturating_add(tensor.elements());
            share.bytes = share.bytes.saturating_add(tensor.byte_len().unwrap_or(0));
        }
        shares
    }

    fn text(&self, out: &mut impl Write, full: bool) -> io::Result<()> {
        let gguf = self.first();
        let more = match self.ggufs.len() {
            1 => String::new(),
            n => format!("{n} files, "),
        };
        writeln!(
            out,
            "{}  {more}{}, GGUF version {}, alignment {}",
            one_line(&self.paths[0].to_string_lossy()),
            human::bytes(self.file_bytes()),
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
        if self.is_split() {
            self.files_text(out)?;
        }
        self.tensors_text(out)
    }

    fn files_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\nfiles: {}", self.ggufs.len())?;
        let mut table = Table::new(&[Align::Right, Align::Left, Align::Right, Align::Right]);
        for (i, (path, gguf)) in self.paths.iter().zip(self.ggufs).enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let tensors = format!("{} tensors", human::grouped(gguf.tensors().len() as u64));
            let bytes = human::bytes(gguf.file_bytes());
            table.row([(i + 1).to_string(), one_line(&name), bytes, tensors]);
        }
        table.write(out, "  ")
    }

    fn tensors_text(&self, out: &mut impl Write) -> io::Result<()> {
        let from = match self.is_split() {
            true => "each at FILE@BYTE".to_owned(),
            false => format!("data from byte {}", self.first().data_offset()),
        };
        let (count, parameters) = (self.table.entries().len(), human::count(self.parameters()));
        writeln!(out, "\ntensors: {count}, {parameters} parameters, {from}")?;
        let columns = [Align::Left, Align::Left, Align::Left, Align::Right, Align::Right];
        let mut table = Table::new(&columns);
        for entry in self.table.entries() {
            table.row(tensor_row(entry, self.is_split()));
        }
        table.write(out, "  ")?;
        writeln!(out, "\nby type")?;
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Right, Align::Right]);
        for (id, share) in self.shares() {
            let tensors = format!("{} tensors", human::grouped(share.tensors));
            let size = match GgmlType(id).layout() {
                Some(_) => human::bytes(share.bytes),
                None => "unknown size".to_owned(),
            };
            table.row([type_name(GgmlType(id)), tensors, human::count(share.elements), size]);
        }
        table.write(out, "  ")
    }
}

fn tensor_row(entry: &ShardTensor<'_>, is_split: bool) -> [String; 5] {
    let tensor = &entry.tensor;
    let file = if is_split { format!("{}", entry.shard + 1) } else { String::new() };
    let dims: Vec<String> = tensor.dims().iter().map(u64::to_string).collect();
    [
        one_line(tensor.name()),
        type_name(tensor.ggml_type()),
        dims.join(" x "),
        tensor.byte_len().map_or_else(|_| "?".to_owned(), human::bytes),
        format!("{file}@{}", human::grouped(tensor.offset())),
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
    /// Of a set the first file.
    path: String,
    /// All files together.
    file_bytes: u64,
    files: Vec<FileDocument>,
    version: u32,
    alignment: u32,
    architecture: Option<&'a str>,
    parameters: u64,
    /// All files together.
    header_bytes: u64,
    /// Of the first file.
    data_offset: u64,
    metadata: Metadata<'a>,
    tensors: Vec<TensorDocument<'a>>,
    types: Vec<TypeDocument>,
}

#[derive(Serialize)]
struct FileDocument {
    path: String,
    bytes: u64,
    data_offset: u64,
    tensors: usize,
}

#[derive(Serialize)]
struct TensorDocument<'a> {
    name: &'a str,
    r#type: Option<&'static str>,
    type_id: u32,
    dims: &'a [u64],
    /// Index into `files`.
    file: u32,
    /// In its file.
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

impl Set<'_> {
    fn document(&self, full: bool) -> Document<'_> {
        let gguf = self.first();
        let types = self.shares().into_iter().map(|(id, share)| TypeDocument {
            r#type: GgmlType(id).name(),
            type_id: id,
            tensors: share.tensors,
            parameters: share.elements,
            bytes: GgmlType(id).layout().map(|_| share.bytes),
        });
        Document {
            path: self.paths[0].to_string_lossy().into_owned(),
            file_bytes: self.file_bytes(),
            files: self.file_documents(),
            version: gguf.version(),
            alignment: gguf.alignment(),
            architecture: gguf.get_str("general.architecture").ok().flatten(),
            parameters: self.parameters(),
            header_bytes: self.ggufs.iter().map(Gguf::header_bytes).sum(),
            data_offset: gguf.data_offset(),
            metadata: Metadata { gguf, full },
            tensors: self.table.entries().iter().map(tensor_document).collect(),
            types: types.collect(),
        }
    }

    fn file_documents(&self) -> Vec<FileDocument> {
        let files = self.paths.iter().zip(self.ggufs).map(|(path, gguf)| FileDocument {
            path: path.to_string_lossy().into_owned(),
            bytes: gguf.file_bytes(),
            data_offset: gguf.data_offset(),
            tensors: gguf.tensors().len(),
        });
        files.collect()
    }
}

fn tensor_document<'a>(entry: &'a ShardTensor<'a>) -> TensorDocument<'a> {
    let ShardTensor { shard, tensor } = entry;
    TensorDocument {
        name: tensor.name(),
        r#type: tensor.ggml_type().name(),
        type_id: tensor.ggml_type().0,
        dims: tensor.dims(),
        file: *shard,
        offset: tensor.offset(),
        bytes: tensor.byte_len().ok(),
    }
}

/// Keys as the file has them, written as they are read from the header: a vocabulary as a tree of JSON takes 60 MB and more.
struct Metadata<'a> {
    gguf: &'a Gguf<'a>,
    full: bool,
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let value = |value| ValueDocument { value, full: self.full };
        let entries = self.gguf.keys().iter();
        serializer.collect_map(entries.map(|entry| (entry.key(), value(entry.value()))))
    }
}

/// Scalars as they are; arrays as `{"array", "length", "values"}`, the values cut where long.
struct ValueDocument<'a> {
    value: Value<'a>,
    full: bool,
}

#[derive(Serialize)]
struct ArrayDocument<'a> {
    array: &'static str,
    length: u64,
    values: Values<'a>,
}

struct Values<'a> {
    array: &'a ArrayRef<'a>,
    full: bool,
}

impl Serialize for ValueDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match &self.value {
            Value::String(bytes) => serializer.serialize_str(&String::from_utf8_lossy(bytes)),
            Value::Array(array) => {
                let values = Values { array, full: self.full };
                let array_type = array.element_type().name();
                ArrayDocument { array: array_type, length: array.len(), values }
                    .serialize(serializer)
            }
            // JSON has no NaN and no infinities: null.
            Value::F32(v) => serializer.serialize_f64(f64::from(*v)),
            Value::F64(v) => serializer.serialize_f64(*v),
            Value::Bool(v) => serializer.serialize_bool(*v),
            Value::U64(v) => serializer.serialize_u64(*v),
            other => other.as_int().and_then(|v| i64::try_from(v).ok()).serialize(serializer),
        }
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let limit = if self.full { usize::MAX } else { ELEMENTS_SHOWN };
        let values = self.array.values().take(limit);
        serializer.collect_seq(values.map(|value| ValueDocument { value, full: self.full }))
    }
}

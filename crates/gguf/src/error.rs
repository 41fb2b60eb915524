//! The one error type: each variant names what is wrong, where (field, offset), why, and what mends it.
//!
//! `Display` is up to three lines: what; where and why; the mend. The file's name is the caller's to prepend.

use std::fmt::Write as _;

use crate::ggml_type::GgmlType;
use crate::limits;

const AGAIN: &str = "fetch the file again: `lowtide pull` resumes and checks the sha256";
const REPORT: &str =
    "the writer of this file is at fault; convert the model again with current tools";

/// Why a GGUF file (or one of its fields) cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file has no bytes.
    #[error(
        "the file is empty\na GGUF file starts with at least {} bytes of header\n{AGAIN}",
        limits::FIXED_HEADER_BYTES
    )]
    Empty,
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file\nmagic at offset 0 is {}, not \"GGUF\"{}\n{}", quote(magic), magic_hint(magic).0, magic_hint(magic).1)]
    Magic {
        /// The first bytes found (four, or fewer where the file has fewer).
        magic: Vec<u8>,
    },
    /// A version this reader does not know.
    #[error(
        "GGUF version {version} is not supported\nheader field version at offset 4; versions {} to {} are read\n{}",
        limits::VERSION_MIN,
        limits::VERSION_MAX,
        if *version < limits::VERSION_MIN { "convert the model again with current tools" } else { "update lowtide" }
    )]
    Version {
        /// The version stated.
        version: u32,
    },
    /// The file was written on, or for, a big-endian machine.
    #[error(
        "the file is big-endian GGUF\nheader field version at offset 4 is {version:#010x}: version {} with its bytes swapped\nconvert it with `gguf_convert_endian.py FILE little`",
        version.swap_bytes()
    )]
    BigEndian {
        /// The version as read, bytes swapped.
        version: u32,
    },
    /// The file ends inside a field.
    #[error(
        "the file is cut short\n{field} at offset {offset} takes {bytes} bytes, the file ends at {file_bytes}\n{AGAIN}"
    )]
    Truncated {
        /// The field being read.
        field: String,
        /// Where it starts, in bytes from the start of the file.
        offset: u64,
        /// How many bytes it takes.
        bytes: u64,
        /// The file's length.
        file_bytes: u64,
    },
    /// The header goes on past the prefix that was given: not a fault of the file. Bring in at least `at_least` bytes (better,
    /// twice what was given) and parse again.
    #[error(
        "the header is longer than the {have} bytes read so far\nit goes on to offset {at_least} at least\nread more of the file and parse again"
    )]
    NeedMore {
        /// Bytes from the start of the file that the next attempt needs at the very least; never more than the file has.
        at_least: u64,
        /// Bytes given.
        have: u64,
    },
    /// A count that the rest of the file cannot hold, or over a cap.
    #[error(
        "impossible count: {count}\n{field} at offset {offset}; the file can hold at most {most}\n{AGAIN}"
    )]
    Count {
        /// The field that holds the count.
        field: String,
        /// Its offset.
        offset: u64,
        /// The count stated.
        count: u64,
        /// The most that would be accepted.
        most: u64,
    },
    /// A string longer than its cap or than the rest of the file.
    #[error(
        "impossible string length: {len}\n{field} at offset {offset}; at most {most} bytes are possible there\n{AGAIN}"
    )]
    StringLength {
        /// The field.
        field: String,
        /// Offset of the length.
        offset: u64,
        /// The length stated.
        len: u64,
        /// The most that would be accepted.
        most: u64,
    },
    /// A key that is empty or not ASCII.
    #[error("bad metadata key {}\nkey {index} at offset {offset} {why}\n{REPORT}", quote(key))]
    KeyName {
        /// Position in the list of keys.
        index: u64,
        /// Offset of its name.
        offset: u64,
        /// The name's bytes, cut for display.
        key: Vec<u8>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The same key twice.
    #[error("metadata key {} stands twice\nfirst at offset {first}, again at offset {offset}: which one counts is undefined\n{REPORT}", quote(key.as_bytes()))]
    DuplicateKey {
        /// The key.
        key: String,
        /// Offset of the first entry.
        first: u64,
        /// Offset of the second entry.
        offset: u64,
    },
    /// A value type id outside 0..=12.
    #[error(
        "unknown metadata value type {id}\n{field} at offset {offset}; types 0 to 12 exist\n{AGAIN}"
    )]
    ValueType {
        /// The field.
        field: String,
        /// Its offset.
        offset: u64,
        /// The id found.
        id: u32,
    },
    /// A bool that is neither 0 nor 1.
    #[error("a bool is neither 0 nor 1 but {value}\n{field} at offset {offset}\n{REPORT}")]
    Bool {
        /// The field.
        field: String,
        /// Offset of the byte.
        offset: u64,
        /// The byte found.
        value: u8,
    },
    /// Arrays within arrays beyond the cap.
    #[error(
        "arrays are nested more than {} deep\n{field} at offset {offset}; models do not nest arrays at all\n{REPORT}",
        limits::ARRAY_DEPTH_MAX
    )]
    ArrayDepth {
        /// The field.
        field: String,
        /// Offset of the array that goes too deep.
        offset: u64,
    },
    /// `general.alignment` is not usable.
    #[error(
        "bad alignment {value}\nkey \"general.alignment\" at offset {offset} must be a power of two of type u32, at most {}\n{REPORT}",
        limits::ALIGNMENT_MAX
    )]
    Alignment {
        /// The value, or its type where that is wrong.
        value: String,
        /// Offset of the entry.
        offset: u64,
    },
    /// A tensor name that is empty, not UTF-8, or holds a control character.
    #[error("bad tensor name {}\ntensor {index} at offset {offset} {why}\n{REPORT}", quote(name))]
    TensorName {
        /// Position in the tensor table.
        index: u64,
        /// Offset of the entry.
        offset: u64,
        /// The name's bytes.
        name: Vec<u8>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The same tensor name twice.
    #[error("tensor {} stands twice\nfirst {first}, again {again}: which one counts is undefined\n{REPORT}", quote(name.as_bytes()))]
    DuplicateTensor {
        /// The name.
        name: String,
        /// Where it stands first.
        first: String,
        /// Where it stands again.
        again: String,
    },
    /// More dimensions than ggml has.
    #[error("tensor {} has {count} dimensions\ndimension count at offset {offset}; at most {} are possible\n{AGAIN}", quote(name.as_bytes()), limits::DIMS_MAX)]
    DimensionCount {
        /// The tensor.
        name: String,
        /// Offset of the count.
        offset: u64,
        /// The count stated.
        count: u32,
    },
    /// A dimension of zero, or negative as the signed number it is in the format.
    #[error("tensor {} has an impossible dimension\ndimension {index} at offset {offset} is {value}\n{AGAIN}", quote(name.as_bytes()))]
    Dimension {
        /// The tensor.
        name: String,
        /// Which dimension, the fastest varying one being 0.
        index: u32,
        /// Offset of the dimension.
        offset: u64,
        /// The value, signed as in the format.
        value: i64,
    },
    /// Elements or bytes of a tensor overflow 63 bits.
    #[error("tensor {} is impossibly large\ndimensions {dims:?} of {ty} at offset {offset}: the size in bytes does not fit 63 bits\n{AGAIN}", quote(name.as_bytes()))]
    TensorSize {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
        /// Its type.
        ty: GgmlType,
        /// Offset of the entry.
        offset: u64,
    },
    /// A row that is not whole blocks.
    #[error("tensor {} has rows of {row} elements, which are not whole blocks of {ty}\ndimension 0, entry at offset {offset}; a block of {ty} has {block} elements\n{REPORT}", quote(name.as_bytes()))]
    RowBlock {
        /// The tensor.
        name: String,
        /// Elements per row.
        row: u64,
        /// Its type.
        ty: GgmlType,
        /// Elements per block.
        block: u64,
        /// Offset of the entry.
        offset: u64,
    },
    /// A type that has no layout: unknown, or withdrawn by ggml. Given when the tensor's size is asked for, not by parsing.
    #[error(
        "tensor {} is of {} type {ty}\ntype id {} in the entry at offset {offset} has no known layout\n{}",
        quote(name.as_bytes()),
        if ty.is_retired() { "retired" } else { "unknown" },
        ty.0,
        if ty.is_retired() { "take a file of the model in a current format, such as Q4_0 or Q4_K_M" } else { "update lowtide, or take a file in a known format" }
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        ty: GgmlType,
        /// Offset of the entry.
        offset: u64,
    },
    /// Data that does not start on the file's alignment.
    #[error("tensor {} is misaligned\nits data offset {data_offset} (entry at offset {offset}) is not a multiple of the alignment {alignment}\n{REPORT}", quote(name.as_bytes()))]
    Misaligned {
        /// The tensor.
        name: String,
        /// Offset of the entry.
        offset: u64,
        /// The offset stated, relative to the data section.
        data_offset: u64,
        /// The file's alignment.
        alignment: u32,
    },
    /// Data that ends past the file's end (or past 2^64).
    #[error("the file is cut short\ntensor {} (entry at offset {offset}) ends at {}, the file ends at {file_bytes}\n{AGAIN}", quote(name.as_bytes()), end.map_or_else(|| "more than 2^64".to_owned(), |end| end.to_string()))]
    PastEnd {
        /// The tensor.
        name: String,
        /// Offset of the entry.
        offset: u64,
        /// Where the data would end, `None` where that wraps.
        end: Option<u64>,
        /// The file's length.
        file_bytes: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors {} and {} overlap\nthe first ends at offset {first_end}, the second starts at {second_start}\n{REPORT}", quote(first.as_bytes()), quote(second.as_bytes()))]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The one that starts inside it.
        second: String,
        /// Where the first ends.
        first_end: u64,
        /// Where the second starts.
        second_start: u64,
    },
    /// A key that is needed and absent.
    #[error("metadata key {} is missing\nthe model cannot be used without it\nconvert the model again with current tools", quote(key.as_bytes()))]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value of another type than needed.
    #[error("metadata key {} has the wrong type\nits value at offset {offset} is {found}, expected {expected}\n{REPORT}", quote(key.as_bytes()))]
    WrongType {
        /// The key.
        key: String,
        /// Offset of its entry.
        offset: u64,
        /// The type found.
        found: String,
        /// The types that would do.
        expected: &'static str,
    },
    /// A number that does not fit what it is needed for.
    #[error("metadata key {} is out of range\nits value at offset {offset} is {value}, expected {expected}\n{REPORT}", quote(key.as_bytes()))]
    OutOfRange {
        /// The key.
        key: String,
        /// Offset of its entry.
        offset: u64,
        /// The value found.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// An array with another number of elements than needed.
    #[error("metadata key {} has {len} elements\nthe array at offset {offset} should have {expected}\n{REPORT}", quote(key.as_bytes()))]
    ArrayLength {
        /// The key.
        key: String,
        /// Offset of its entry.
        offset: u64,
        /// Elements found.
        len: u64,
        /// Elements needed.
        expected: u64,
    },
    /// A string that is not UTF-8 where text is needed.
    #[error("metadata key {} is not valid UTF-8\nthe string at offset {offset} breaks off after {valid} bytes\n{REPORT}", quote(key.as_bytes()))]
    NotUtf8 {
        /// The key.
        key: String,
        /// Offset of its entry.
        offset: u64,
        /// How many bytes of it are valid.
        valid: u64,
    },
    /// A tensor that is needed and absent.
    #[error("tensor {} is missing\nnone of the {count} tensors has this name\nthe file is incomplete or of another architecture than it states; convert the model again", quote(name.as_bytes()))]
    MissingTensor {
        /// The name.
        name: String,
        /// Tensors in the file.
        count: u64,
    },
    /// A tensor whose data lies outside the bytes that were given to the parser.
    #[error("tensor {} was not read\nits data ends at offset {end}, {have} bytes were given\nparse the whole file to reach tensor data", quote(name.as_bytes()))]
    DataNotIncluded {
        /// The tensor.
        name: String,
        /// Where its data ends.
        end: u64,
        /// Bytes given.
        have: u64,
    },
    /// A split set that does not hold together.
    #[error(
        "the split set does not fit together\n{why}\nput all shards of one download, {pattern}, into one directory"
    )]
    Split {
        /// What does not fit, with the shard and the field.
        why: String,
        /// How the names should look.
        pattern: String,
    },
    /// The writer was asked for something that the format cannot express.
    #[error("cannot write {what}\n{why}")]
    Write {
        /// The key or tensor.
        what: String,
        /// Why not.
        why: String,
    },
}

/// What a file with this magic probably is, and what to do about it.
fn magic_hint(magic: &[u8]) -> (&'static str, &'static str) {
    match magic {
        b"lmgg" | b"fmgg" | b"tjgg" | b"algg" | b"ggml" | b"ggmf" | b"ggjt" | b"ggla" => (
            ": a ggml file from before GGUF",
            "convert it with llama.cpp's converter of 2023, or take a GGUF file",
        ),
        b"PK\x03\x04" => {
            (": a zip archive (PyTorch checkpoint?)", "convert it with convert_hf_to_gguf.py")
        }
        b"vers" => (": a git-lfs pointer, not the file itself", "run `git lfs pull` beside it"),
        b"<!DO" | b"<htm" | b"<!do" | b"<HTM" => {
            (": a web page", "fetch the file itself, not the page about it")
        }
        b"FUGG" => (": bytes swapped", "convert it with `gguf_convert_endian.py FILE little`"),
        _ => (
            "",
            "give a .gguf file; Safetensors and PyTorch models need convert_hf_to_gguf.py first",
        ),
    }
}

/// Bytes of the file as they may stand in a message: quoted, escaped, cut to [`limits::QUOTED_BYTES_MAX`].
pub(crate) fn quote(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(limits::QUOTED_BYTES_MAX)];
    let mut out = String::from("\"");
    for chunk in cut.utf8_chunks() {
        out.extend(chunk.valid().chars().flat_map(char::escape_debug));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    if cut.len() < bytes.len() {
        let _ = write!(out, "... ({} bytes)", bytes.len());
    }
    out
}

/// Bytes of the file as an error keeps them: no more than [`quote`] shows, and one to tell that there were more.
pub(crate) fn keep(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(limits::QUOTED_BYTES_MAX + 1)].to_vec()
}

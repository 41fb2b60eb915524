//! Bytes of GGUF files, good and bad: unlike the crate's writer, this one checks nothing.
#![allow(dead_code, reason = "each test binary uses its own part")]

use lowtide_gguf::GgmlType;
use lowtide_gguf::write::HeaderWriter;

/// A file under construction; counts are patched in by `done` unless overridden.
#[derive(Clone, Default)]
pub struct Raw {
    pub version: Option<u32>,
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
    pub keys: u64,
    pub tensors: u64,
    pub body: Vec<u8>,
}

impl Raw {
    pub fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.body.extend(bytes);
        self
    }
    pub fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }
    pub fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }
    pub fn string(self, s: &[u8]) -> Raw {
        self.u64(s.len() as u64).bytes(s)
    }
    /// A key's name and value type; the value follows by the methods above.
    pub fn key(mut self, name: &[u8], ty: u32) -> Raw {
        self.keys += 1;
        self.string(name).u32(ty)
    }
    /// A tensor entry.
    pub fn tensor(mut self, name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Raw {
        self.tensors += 1;
        let mut raw = self.string(name).u32(dims.len() as u32);
        for &dim in dims {
            raw = raw.u64(dim);
        }
        raw.u32(ty).u64(offset)
    }
    /// The start of a tensor entry whose rest is written by hand.
    pub fn tensor_name(mut self, name: &[u8]) -> Raw {
        self.tensors += 1;
        self.string(name)
    }
    pub fn done(self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys).to_le_bytes());
        out.extend(self.body);
        out
    }
    /// `done`, padded to 32 and followed by `bytes` of data.
    pub fn with_data(self, bytes: usize) -> Vec<u8> {
        let mut out = self.done();
        out.resize(out.len().next_multiple_of(32) + bytes, 0x5a);
        out
    }
}

/// A small valid file with every value type and three tensors.
pub fn small_file() -> Vec<u8> {
    use lowtide_gguf::Value;
    let mut writer = HeaderWriter::new();
    writer
        .str("general.architecture", "llama")
        .value("v.u8", &Value::U8(200))
        .value("v.i8", &Value::I8(-100))
        .u16("v.u16", 60_000)
        .value("v.i16", &Value::I16(-30_000))
        .u32("v.u32", 4_000_000_000)
        .i32("v.i32", -2_000_000_000)
        .f32("v.f32", 1.5)
        .bool("v.bool", true)
        .value("v.u64", &Value::U64(u64::MAX))
        .value("v.i64", &Value::I64(i64::MIN))
        .value("v.f64", &Value::F64(-0.1))
        .value("v.bytes", &Value::String(b"a\xffb"))
        .strings("a.str", &["", "a", "\u{e9}t\u{e9}"])
        .u32s("a.u32", &[1, 2, u32::MAX])
        .i32s("a.i32", &[-1, 0, 1])
        .f32s("a.f32", &[0.25, -2.0])
        .bools("a.bool", &[true, false, true])
        .i32s("a.empty", &[])
        .alignment(64)
        .tensor("token_embd.weight", &[32, 4], GgmlType::F32)
        .tensor("blk.0.ffn_down.weight", &[64, 3], GgmlType::Q4_0)
        .tensor("output_norm.weight", &[32], GgmlType::F32);
    let layout = writer.finish().expect("valid");
    let mut file = layout.header;
    let mut byte = 0u8;
    for placement in &layout.tensors {
        file.resize(placement.offset as usize, 0);
        for _ in 0..placement.bytes {
            file.push(byte);
            byte = byte.wrapping_mul(5).wrapping_add(17);
        }
    }
    file.resize(layout.file_bytes as usize, 0);
    file
}

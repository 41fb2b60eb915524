//! What lies where in a model's files, by the names of its tensors: families that lowtide cannot run
//! are laid out as well.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lowtide_gguf::split::{SplitInfo, shard_names};
use lowtide_gguf::{Gguf, TensorInfo};
use lowtide_mapping::{ModelFile, open_model_file};

use super::kind::Kind;
use crate::failure::{Failure, STATUS_INPUT};
use crate::header::Header;

/// A tensor, or a file's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file it lies in, from 0.
    pub shard: usize,
    /// The tensor's name, or `header`.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Its layer; `None` outside the layers.
    pub layer: Option<u32>,
    /// The format of its blocks.
    pub format: String,
    /// Its bytes in the file.
    pub range: Range<u64>,
}

impl Part {
    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A model's files and their parts.
pub struct Layout {
    /// The files in order.
    pub shards: Vec<ModelFile>,
    /// What is in them, by shard and offset.
    pub parts: Vec<Part>,
    /// The family, as the file calls it.
    pub architecture: String,
    /// Layers: one more than the highest number.
    pub layers: u32,
}

impl Layout {
    /// Reads the headers of the file at `path`, and of the others of its set.
    pub fn read(path: &Path) -> Result<Self> {
        let first = Header::read(path)?;
        let mut layout =
            Self { shards: Vec::new(), parts: Vec::new(), architecture: String::new(), layers: 0 };
        let gguf = first.gguf()?;
        layout.architecture =
            gguf.get_str("general.architecture").ok().flatten().unwrap_or("unknown").to_owned();
        layout.add(path, &gguf)?;
        for other in other_shards(path, &gguf)? {
            let header = Header::read(&other)?;
            layout.add(&other, &header.gguf()?)?;
        }
        let highest = layout.parts.iter().filter_map(|part| part.layer).max();
        layout.layers = highest.map_or(0, |layer| layer.saturating_add(1));
        Ok(layout)
    }

    fn add(&mut self, path: &Path, gguf: &Gguf<'_>) -> Result<()> {
        let file = open_model_file(path).map_err(|e| Failure::from_lines(&e, STATUS_INPUT))?;
        let shard = self.shards.len();
        let size = file.size();
        self.parts.push(Part {
            shard,
            name: "header".to_owned(),
            kind: Kind::Header,
            layer: None,
            format: String::new(),
            range: 0..gguf.data_offset().min(size),
        });
        let mut tensors: Vec<&TensorInfo<'_>> = gguf.tensors().iter().collect();
        tensors.sort_by_key(|tensor| tensor.offset());
        for (i, tensor) in tensors.iter().enumerate() {
            // A format that is not known has no length: it reaches to the next tensor.
            let next = tensors.get(i + 1).map_or(size, |next| next.offset());
            let start = tensor.offset().min(size);
            let end = tensor.byte_len().map_or(next, |bytes| start.saturating_add(bytes));
            let (kind, layer) = Kind::of(tensor.name(), tensor.rows());
            let ty = tensor.ggml_type();
            self.parts.push(Part {
                shard,
                name: tensor.name().to_owned(),
                kind,
                layer,
                format: ty.name().map_or_else(|| format!("type {}", ty.0), str::to_owned),
                range: start..end.clamp(start, size),
            });
        }
        self.shards.push(file);
        Ok(())
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(ModelFile::size).sum()
    }

    /// Where a shard begins when all are laid end to end.
    pub fn base(&self, shard: usize) -> u64 {
        self.shards.iter().take(shard).map(ModelFile::size).sum()
    }

    /// Tensors of all files.
    pub fn tensors(&self) -> usize {
        self.parts.len() - self.shards.len()
    }
}

/// The other files of a split set, next to the first.
fn other_shards(path: &Path, gguf: &Gguf<'_>) -> Result<Vec<PathBuf>> {
    let broken = |error: lowtide_gguf::Error| {
        Failure::from_lines(&error, STATUS_INPUT).about(path.display())
    };
    let Some(info) = SplitInfo::read(gguf).map_err(broken)?.filter(|info| info.count > 1) else {
        return Ok(Vec::new());
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = shard_names(&name, info).map_err(broken)?;
    Ok(names.into_iter().skip(1).map(|name| path.with_file_name(name)).collect())
}

//! A model's files: opened, mapped, their headers parsed in place. Opening brings in the header
//! and nothing of the weights, so an 18 GB file opens as fast as its vocabulary loads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowtide_gguf::split::{SplitInfo, TensorTable, shard_names};
use lowtide_gguf::{Error as GgufError, Gguf};
use lowtide_mapping::{Mapping, ModelFile, install_sigbus_guard, open_model_file};
use lowtide_model::ModelConfig;
use lowtide_tokenizer::Tokenizer;

use crate::bind::{Bound, bind};
use crate::error::Error;
use crate::sampler_defaults::SamplerDefaults;

/// The first stretch of a header that is brought in: most vocabularies fit.
const HEADER_FIRST_BYTES: u64 = 2 << 20;

/// One request for a stretch: every kernel does so much in full, and adds no readahead of its own.
const HEADER_REQUEST_BYTES: usize = 128 << 10;

/// More than any disk's readahead.
const READ_AHEAD_BYTES_MAX: u64 = 16 << 20;

/// One file of the model.
#[derive(Debug)]
pub struct Shard {
    /// The open file and who it was when it was opened.
    pub file: Arc<ModelFile>,
    /// All of it, mapped shared and read-only.
    pub mapping: Arc<Mapping>,
}

/// An opened model: everything but its weights.
pub struct Model {
    pub(crate) shards: Vec<Shard>,
    pub(crate) config: ModelConfig,
    pub(crate) bound: Bound,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) chat_template: Option<String>,
    pub(crate) sampler_defaults: SamplerDefaults,
    /// Bytes the headers take at the front of the files.
    pub(crate) header_bytes: u64,
    places: Vec<TensorPlace>,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// Its name, as the file has it.
    pub name: Box<str>,
    /// The file of the set, from 0.
    pub shard: u32,
    /// Its first byte in that file.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Model {
    /// Opens the model at `path` (a file, or the first shard of a split set).
    ///
    /// # Errors
    /// The file cannot be opened or mapped, is no sound GGUF file, or holds a model that lowtide
    /// cannot run. Nothing is allocated on the file's word alone.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Bytes come in by explicit calls; should a touch fail all the same (the file was cut short
        // between the call and the use), the pass is refused instead of the process killed.
        install_sigbus_guard()?;
        let first = Shard::open(path)?;
        let more = first.other_shards()?;
        let mut shards = vec![first];
        for path in more {
            shards.push(Shard::open(&path)?);
        }
        let headers = shards.iter().map(Shard::header).collect::<Result<Vec<_>, _>>()?;
        let gguf_error = |source| Error::Gguf { path: path.to_owned(), source };
        let model_error = |source| Error::Model { path: path.to_owned(), source };
        let table = TensorTable::merge(&headers).map_err(gguf_error)?;
        let gguf = &headers[0];
        let config = ModelConfig::from_gguf(gguf, &table).map_err(model_error)?;
        let bound = bind(&config, &table).map_err(model_error)?;
        let tokenizer = Tokenizer::from_gguf(gguf)
            .map_err(|source| Error::Tokenizer { path: path.to_owned(), source })?;
        let chat_template = gguf.get_str("tokenizer.chat_template").map_err(gguf_error)?;
        let chat_template = chat_template.map(str::to_owned);
        let sampler_defaults = SamplerDefaults::read(gguf);
        let header_bytes = headers.iter().map(Gguf::header_bytes).sum();
        let places = places(&table);
        drop(table);
        drop(headers);
        // The headers have been read for good: their pages, and what was mapped with the last of them, need not
        // count against the budget.
        for shard in &shards {
            shard.mapping.unmap_pages(0..shard.mapping.len())?;
        }
        Ok(Self {
            shards,
            config,
            bound,
            tokenizer: Arc::new(tokenizer),
            chat_template,
            sampler_defaults,
            header_bytes,
            places,
        })
    }

    /// Lets go of what the kernel read ahead beside the headers and the program: it is charged to the
    /// memory group, and no plan counts it.
    pub fn release_read_ahead(&self) -> Result<(), Error> {
        lowtide_mapping::release_program_read_ahead();
        // A header is looked for in stretches that double.
        let read = self.header_bytes.saturating_mul(2).max(HEADER_FIRST_BYTES);
        for shard in &self.shards {
            let end = read.saturating_add(READ_AHEAD_BYTES_MAX).min(shard.file.size());
            shard.mapping.evict(0..index(end))?;
        }
        Ok(())
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokenizer, for those who work beside the engine.
    #[must_use]
    pub fn shared_tokenizer(&self) -> Arc<Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    /// The tensors, by shard and offset.
    #[must_use]
    pub fn tensors(&self) -> &[TensorPlace] {
        &self.places
    }

    /// The chat template's source, where the file has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Sampling parameters that the file recommends.
    #[must_use]
    pub fn sampler_defaults(&self) -> &SamplerDefaults {
        &self.sampler_defaults
    }

    /// The files.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.file.size()).sum()
    }

    /// Bytes the headers take at the front of the files.
    #[must_use]
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Weights of all tensors together.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.bound.parameters
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = Arc::new(open_model_file(path)?);
        let mapping = Arc::new(Mapping::of_file(file.file())?);
        Ok(Self { file, mapping })
    }

    /// Brings the header in by explicit calls, which can fail, instead of by touching it, which
    /// would raise SIGBUS, and parses it where it lies.
    fn header(&self) -> Result<Gguf<'_>, Error> {
        let size = self.file.size();
        let mut wanted = HEADER_FIRST_BYTES.min(size);
        let mut ready = 0;
        loop {
            // Asked for beforehand: where populating finds no page, the kernel reads the disk's readahead behind
            // it as well (8 MiB on some), which is charged while the vocabulary is built and no plan counts.
            let stretch = index(ready)..index(wanted);
            for from in stretch.clone().step_by(HEADER_REQUEST_BYTES) {
                self.mapping.will_need(from..stretch.end.min(from + HEADER_REQUEST_BYTES))?;
            }
            self.mapping.populate(stretch)?;
            match Gguf::parse_header(&self.mapping.as_slice()[..index(wanted)], size) {
                Err(GgufError::NeedMore { .. }) if wanted < size => {
                    ready = wanted;
                    wanted = wanted.saturating_mul(2).min(size);
                }
                Err(source) => {
                    return Err(Error::Gguf { path: self.file.path().to_owned(), source });
                }
                Ok(gguf) => return Ok(gguf),
            }
        }
    }

    /// The paths of the other shards of a split set, next to this one.
    fn other_shards(&self) -> Result<Vec<PathBuf>, Error> {
        let path = self.file.path();
        let gguf_error = |source| Error::Gguf { path: path.to_owned(), source };
        let gguf = self.header()?;
        let Some(info) = SplitInfo::read(&gguf).map_err(gguf_error)? else { return Ok(Vec::new()) };
        if info.count <= 1 {
            return Ok(Vec::new());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let names = shard_names(&name, info).map_err(gguf_error)?;
        Ok(names.into_iter().skip(1).map(|name| path.with_file_name(name)).collect())
    }
}

/// Every tensor's place, sorted.
fn places(table: &TensorTable<'_>) -> Vec<TensorPlace> {
    let mut places: Vec<TensorPlace> = table
        .entries()
        .iter()
        .map(|entry| TensorPlace {
            name: entry.tensor.name().into(),
            shard: entry.shard,
            offset: entry.tensor.offset(),
            bytes: entry.tensor.byte_len().unwrap_or(0),
        })
        .collect();
    places.sort_by_key(|place| (place.shard, place.offset));
    places
}

/// Offsets are below a file's length, which was mapped and so fits the address space.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

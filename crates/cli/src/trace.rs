//! `--trace FILE`: which experts each token used, as JSON lines.
//!
//! The first line describes the model: `{"lowtide_trace": 1, "layers", "experts", "used"}`, where layers
//! are those that have experts. Each further line is a token: `{"position", "experts": [[..], ..]}`, for
//! each layer the experts in ascending order. A prompt's tokens, but for the last, do not need the last
//! layer: they have one list less.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use lowtide_engine::{Engine, Model, Routed};
use serde::Serialize;

use crate::failure::Failure;
use crate::out_file::OutFile;

/// Tokens that go through a model together at most.
const BATCH_MAX: usize = 2048;
/// What the allocator keeps beside each list.
const LIST_BYTES: u64 = 32;

/// Bytes that a trace keeps at most, for prompts of so many tokens: the batch on its way.
pub fn claim_bytes(model: &Model, prompt_tokens: usize) -> u64 {
    let Some(experts) = model.config().experts.as_ref() else { return 0 };
    // Lists of layers double as they grow.
    let list =
        2 * size_of::<Vec<u32>>() as u64 + LIST_BYTES + size_of::<u32>() as u64 * experts.used;
    let token =
        u64::from(model.config().layers).saturating_mul(list).saturating_add(2 * LIST_BYTES);
    token.saturating_mul(prompt_tokens.clamp(1, BATCH_MAX) as u64)
}

#[derive(Serialize)]
struct Header {
    lowtide_trace: u32,
    layers: usize,
    experts: u64,
    used: u64,
}

#[derive(Serialize)]
struct Line<'l> {
    position: usize,
    experts: &'l [Vec<u32>],
}

/// A trace being written.
pub struct Trace {
    writer: Arc<Mutex<Writer>>,
}

struct Writer {
    out: OutFile,
    used: usize,
    /// The batch on its way: of each token its position and its layers so far.
    batch: Vec<(usize, Vec<Vec<u32>>)>,
    first_layer: Option<usize>,
    failed: Option<std::io::Error>,
}

impl Trace {
    /// Begins the file under another name: a run that is refused leaves what was there.
    ///
    /// # Errors
    /// Exit status 2: there is nothing to trace in `model`, or the file cannot be written.
    pub fn create(path: &Path, model: &Model) -> Result<OutFile> {
        if model.config().experts.is_none() {
            return Err(nothing_to_trace().into());
        }
        Ok(OutFile::create(path, "--trace")?)
    }

    /// Begins to write what `engine`'s routers choose.
    pub fn begin(mut out: OutFile, engine: &mut Engine) -> Result<Self> {
        let Some(experts) = engine.config().experts.as_ref() else {
            return Err(nothing_to_trace().into());
        };
        let layers = engine.expert_layers();
        let header =
            Header { lowtide_trace: 1, layers, experts: experts.count, used: experts.used };
        line(&mut out, &header).map_err(|error| out.failed(&error))?;
        out.publish()?;
        // The configuration's limits are far below.
        let used = experts.used as usize;
        let writer = Writer { out, used, batch: Vec::new(), first_layer: None, failed: None };
        let writer = Arc::new(Mutex::new(writer));
        let watcher = Arc::clone(&writer);
        engine.set_route_watcher(Some(Box::new(move |routed| {
            watcher.lock().unwrap_or_else(PoisonError::into_inner).see(routed);
        })));
        Ok(Self { writer })
    }

    /// Writes what is left.
    pub fn finish(self) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_batch();
        let flushed = writer.out.flush();
        let written = writer.failed.take().map_or(flushed, Err);
        Ok(written.map_err(|error| writer.out.failed(&error))?)
    }
}

fn nothing_to_trace() -> Failure {
    Failure::input("the model has no experts, so there is nothing to trace")
        .mend("leave --trace out")
}

impl Writer {
    fn see(&mut self, routed: &Routed<'_>) {
        let first = *self.first_layer.get_or_insert(routed.layer);
        if routed.layer == first {
            self.write_batch();
        }
        for (i, picks) in routed.picks.chunks(self.used).enumerate() {
            let position = routed.first_position + i;
            if routed.layer == first {
                self.batch.push((position, Vec::new()));
            }
            let token = self.batch.iter_mut().find(|token| token.0 == position);
            if let Some((_, layers)) = token {
                layers.push(picks.to_vec());
            }
        }
    }

    /// With each batch also to the file: a run that is ended from outside leaves what it has seen.
    fn write_batch(&mut self) {
        for (position, experts) in self.batch.drain(..) {
            let written = line(&mut self.out, &Line { position, experts: &experts });
            if let Err(error) = written {
                self.failed.get_or_insert(error);
            }
        }
        if let Err(error) = self.out.flush() {
            self.failed.get_or_insert(error);
        }
    }
}

fn line(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

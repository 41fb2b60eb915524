//! The engine: an opened model, a plan for its budget, the threads and the store.

use std::sync::Arc;

use lowtide_kernels::attention::KvFormat;
use lowtide_kernels::compute::Compute;
use lowtide_kernels::format::dequantize;
use lowtide_kernels::isa::Isa;
use lowtide_kernels::quantize::Keep;
use lowtide_kernels::rope::RopeTable;
use lowtide_mapping::{Claim, MemoryLimits, PlanTurn};
use lowtide_model::ModelConfig;
use lowtide_residency::{Board, Store};
use lowtide_tokenizer::Tokenizer;

use crate::bind::{Bound, Tile, Vector};
use crate::budget::{Budget, MemoryLimit};
use crate::error::Error;
use crate::forward::usize_of;
use crate::model_file::Model;
use crate::moe::RouteWatcher;
use crate::planner::{self, Planned, Sizes};
use crate::rotary;
use crate::scratch::EmbeddingRows;

/// How bytes of the model come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// Whatever is faster here.
    #[default]
    Auto,
    /// Through the mapping: populated ahead, dropped behind.
    Mapped,
    /// O_DIRECT into a ring of buffers.
    Direct,
}

/// How many sequences may share passes ([`SharedSession`](crate::SharedSession)); each has a KV cache
/// of its own in the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences {
    /// So many.
    Exactly(usize),
    /// As many as have their KV caches in an eighth of the budget, up to this.
    AtMost(usize),
}

/// What an engine is made with.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// The budget.
    pub memory: MemoryLimit,
    /// Threads; `None`: the physical cores this process may use.
    pub threads: Option<usize>,
    /// Context in tokens; `None`: the model's, at most 4,096 (or `tokens_needed`), and less where
    /// its KV cache would take more than an eighth of the budget.
    pub context: Option<usize>,
    /// How bytes come in.
    pub io: Io,
    /// Format of the KV cache.
    pub kv: KvFormat,
    /// Tokens of the longest prompt that is known to come: sizes the batch, so that a prompt reads
    /// streamed weights once.
    pub prompt_tokens: usize,
    /// Tokens of prompt and answer together, where that is known: the context holds at least these.
    pub tokens_needed: usize,
    /// Rows of logits that one batch gives at most.
    pub logit_rows: usize,
    /// Sequences that share passes.
    pub sequences: Sequences,
    /// Whether the next layer's experts are guessed by its router one layer early, and read while the disk
    /// has nothing else to do. It changes no bit.
    pub guess_experts: bool,
    /// Memory that the caller will claim later (a server's queues and buffers): part of the budget,
    /// left alone here.
    pub caller_bytes: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            memory: MemoryLimit::Auto,
            threads: None,
            context: None,
            io: Io::Auto,
            kv: KvFormat::F16,
            prompt_tokens: planner::BATCH_RESIDENT,
            tokens_needed: 0,
            logit_rows: 1,
            sequences: Sequences::Exactly(1),
            guess_experts: true,
            caller_bytes: 0,
        }
    }
}

/// A model ready to run inside its budget.
pub struct Engine {
    pub(crate) config: ModelConfig,
    pub(crate) bound: Bound,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) compute: Compute,
    pub(crate) store: Store,
    /// Norms, biases and factors, read at a layer's first use.
    pub(crate) vectors: Vec<f32>,
    loaded: Vec<bool>,
    pub(crate) rope_global: RopeTable,
    pub(crate) rope_sliding: RopeTable,
    model: Model,
    budget: Budget,
    sizes: Sizes,
    progress: Option<Box<Progress>>,
    pub(crate) routed: Option<Box<RouteWatcher>>,
    pub(crate) guess_experts: bool,
    pub(crate) passed: Passed,
    vector_bytes: Vec<u8>,
    /// What the plan takes by and by: others that plan meanwhile leave it alone.
    _claim: Option<Claim>,
}

/// How far a call has come, in tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Passed {
    /// Through all layers.
    pub done: usize,
    /// Of the call.
    pub all: usize,
}

/// Told tokens done and tokens in all after each layer; `false` stops.
pub type Progress = dyn FnMut(usize, usize) -> bool + Send;

impl Engine {
    /// Plans the budget and readies the model. Reads no weights: the first pass does.
    ///
    /// # Errors
    /// The budget is below the floor, threads or memory could not be had, or the model's files have
    /// become unreadable.
    pub fn new(model: Model, options: &LoadOptions) -> Result<Self, Error> {
        let compute = planner::compute(options)?;
        let turn = PlanTurn::wait(&MemoryLimits::read()?);
        let Planned { plan, tiles, bound, budget, sizes } =
            planner::planned(&model, options, &compute, turn.claimed_bytes())?;
        let claim = turn.claim(budget.firm_bytes());
        if !plan.is_all_resident() {
            model.release_read_ahead()?;
        }
        let store = crate::open_store::open(&model, plan, budget.total_bytes)?;
        let vectors = vec![0.0; bound.vector_floats];
        let mut engine = Self {
            loaded: vec![false; bound.layers.len() + 1],
            config: model.config.clone(),
            rope_global: RopeTable::new(Vec::new(), 1.0),
            rope_sliding: RopeTable::new(Vec::new(), 1.0),
            bound,
            tiles,
            compute,
            store,
            vectors,
            model,
            budget,
            sizes,
            progress: None,
            routed: None,
            guess_experts: options.guess_experts,
            passed: Passed::default(),
            vector_bytes: Vec::new(),
            _claim: claim,
        };
        engine.prepare_rope()?;
        Ok(engine)
    }

    /// Begins a pass of `tokens` tokens; without logits the output matrix is passed over.
    pub(crate) fn begin_pass(&mut self, tokens: usize, without_logits: bool) -> Result<(), Error> {
        let output = self.bound.output.tiles.clone();
        let first = output.start.min(self.tiles.len() - 1);
        let head = self.tiles[first].extent;
        // Batches have some thousand tokens at most.
        let tokens = tokens as u32;
        Ok(self.store.begin_pass_of(tokens, |id| without_logits && id.index() >= head.index())?)
    }

    pub(crate) fn end_pass(&mut self) -> Result<(), Error> {
        self.store.end_pass()?;
        Ok(())
    }

    fn prepare_rope(&mut self) -> Result<(), Error> {
        let factors = match self.bound.rope_factors {
            Some(vector) => {
                self.load_vector(vector)?;
                Some(crate::forward::floats(&self.vectors, vector).to_vec())
            }
            None => None,
        };
        self.rope_global = rotary::global(&self.config, factors.as_deref());
        self.rope_sliding = rotary::sliding(&self.config);
        Ok(())
    }

    /// Reads the vectors of layer `index` at its first use.
    pub(crate) fn load_vectors(&mut self, index: usize) -> Result<(), Error> {
        if self.loaded[index] {
            return Ok(());
        }
        for at in 0..self.bound.layers[index].vectors.len() {
            let vector = self.bound.layers[index].vectors[at];
            self.load_vector(vector)?;
        }
        self.loaded[index] = true;
        Ok(())
    }

    /// Whether the vectors of layer `index` have been read.
    pub(crate) fn are_vectors_loaded(&self, index: usize) -> bool {
        index + 1 < self.loaded.len() && self.loaded[index]
    }

    /// Reads the norm before the output matrix at its first use.
    pub(crate) fn load_output_norm(&mut self) -> Result<(), Error> {
        let last = self.loaded.len() - 1;
        if !self.loaded[last] {
            self.load_vector(self.bound.output_norm)?;
            self.loaded[last] = true;
        }
        Ok(())
    }

    fn load_vector(&mut self, vector: Vector) -> Result<(), Error> {
        self.vector_bytes.resize(vector.bytes, 0);
        self.store.read_exact_at(vector.source, vector.offset, &mut self.vector_bytes)?;
        let out = &mut self.vectors[vector.start..vector.start + vector.len];
        dequantize(vector.format, &self.vector_bytes, out)?;
        Ok(())
    }

    /// The embeddings of `ids` as f32 into `out`, read together.
    pub(crate) fn embedding_rows(
        &mut self,
        ids: &[u32],
        rows: &mut EmbeddingRows,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let table = &self.bound.embedding;
        rows.offsets.clear();
        rows.offsets
            .extend(ids.iter().map(|id| table.offset + u64::from(*id) * table.row_bytes as u64));
        let bytes = &mut rows.bytes[..ids.len() * table.row_bytes];
        self.store.read_rows(table.source, &rows.offsets, table.row_bytes, bytes)?;
        let width = usize_of(self.config.embedding_length);
        for (row, out) in bytes.chunks_exact(table.row_bytes).zip(out.chunks_exact_mut(width)) {
            dequantize(table.format, row, out)?;
        }
        Ok(())
    }

    pub(crate) fn width(&self) -> usize {
        usize_of(self.config.embedding_length)
    }

    pub(crate) fn embedding_row_bytes(&self) -> usize {
        self.bound.embedding.row_bytes
    }

    pub(crate) fn batch(&self) -> usize {
        self.sizes.batch
    }

    pub(crate) fn keep(&self) -> Keep {
        self.sizes.keep
    }

    pub(crate) fn kv_format(&self) -> KvFormat {
        self.sizes.kv
    }

    pub(crate) fn logit_rows(&self) -> usize {
        self.sizes.logit_rows
    }

    /// Tells of `layers` layers done of a batch of `tokens` tokens, counted as tokens.
    pub(crate) fn report_layer(&mut self, layers: usize, tokens: usize) -> Result<(), Error> {
        let Some(progress) = self.progress.as_mut() else { return Ok(()) };
        let done = self.passed.done + tokens * layers / self.bound.layers.len();
        if progress(done, self.passed.all) { Ok(()) } else { Err(Error::Stopped) }
    }

    /// Sets who is told how far a call to [`Session::forward`](crate::Session::forward) is: after
    /// each layer, in tokens.
    pub fn set_progress(&mut self, progress: Option<Box<Progress>>) {
        self.progress = progress;
    }

    /// Notes on `board` where the model's extents are from now on.
    pub fn watch(&mut self, board: Arc<Board>) {
        self.store.watch(board);
    }

    /// Sets who is told which experts each token uses, layer by layer. It changes no bit.
    pub fn set_route_watcher(&mut self, watcher: Option<Box<RouteWatcher>>) {
        self.routed = watcher;
    }

    /// Layers that have experts.
    #[must_use]
    pub fn expert_layers(&self) -> usize {
        self.store.plan().extents().expert_layers() as usize
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }

    /// Logits a token gives: rows of the output matrix.
    #[must_use]
    pub fn vocabulary_length(&self) -> usize {
        self.bound.output.rows
    }

    /// Tokens a session holds.
    #[must_use]
    pub fn context(&self) -> usize {
        self.sizes.context
    }

    /// Sequences that may share passes.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.sizes.sequences
    }

    /// Threads that compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.compute.threads()
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.compute.isa()
    }

    /// The split of the budget.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What has been read, waited for and kept so far.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
}

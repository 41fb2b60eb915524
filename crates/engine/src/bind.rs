//! Names become bytes: each tensor the family needs is found and its type and shape checked; then
//! the matrices are cut into tiles in order of use. Nothing of the tensors' data is read here.

mod layers;
mod locate;
mod tiling;

use std::collections::HashSet;
use std::ops::Range;

use lowtide_gguf::split::TensorTable;
use lowtide_kernels::format::Format;
use lowtide_model::{Error as ModelError, ModelConfig, Role, TensorSpec, tensors};
use lowtide_residency::{SourceId, UnitId};

use locate::{Binder, tensor_error};
pub(crate) use tiling::{Keeps, Tile};

/// A matrix of `rows` rows of `columns` weights, cut into tiles of rows.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub columns: usize,
    pub row_bytes: usize,
    pub source: SourceId,
    pub offset: u64,
    /// Rows that stay together when it is cut: those of one head, where heads are multiplied apart.
    pub unit_rows: usize,
    /// Its tiles, indices into [`Tiling::tiles`]; empty until [`Bound::cut`].
    pub tiles: Range<usize>,
}

impl Matrix {
    /// `rows` of its rows from `first` on, as a matrix of their own.
    pub(crate) fn rows_of(&self, first: usize, rows: usize) -> Self {
        let offset = self.offset + (first * self.row_bytes) as u64;
        Self { rows, offset, ..self.clone() }
    }
}

/// Matrices of one shape behind each other in one tensor: one for each expert of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slices {
    pub format: Format,
    /// Rows of one matrix.
    pub rows: usize,
    pub columns: usize,
    pub source: SourceId,
    /// Where the first one begins.
    pub offset: u64,
    /// Bytes of one.
    pub bytes: u64,
    /// Bytes from one to the next.
    pub stride: u64,
}

/// A small tensor (norm, bias, rope factors), kept as f32 once it has been read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vector {
    pub format: Format,
    pub source: SourceId,
    pub offset: u64,
    pub bytes: usize,
    /// Where its floats lie in the model's arena of vectors.
    pub start: usize,
    pub len: usize,
}

impl Vector {
    /// `len` of its floats from `first` on, if they are whole blocks of its format.
    pub(crate) fn part(self, first: usize, len: usize) -> Option<Self> {
        let (before, bytes) = (self.format.row_bytes(first)?, self.format.row_bytes(len)?);
        Some(Self {
            offset: self.offset + before as u64,
            bytes,
            start: self.start + first,
            len,
            ..self
        })
    }
}

/// The tensors of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// None where a family norms only what blocks add.
    pub attn_norm: Option<Vector>,
    pub attention: Attention,
    pub sinks: Option<Vector>,
    pub attn_out: Matrix,
    pub attn_out_bias: Option<Vector>,
    pub post_attn_norm: Option<Vector>,
    pub ffn_norm: Option<Vector>,
    pub ffn: FeedForward,
    pub post_ffn_norm: Option<Vector>,
    /// All of the layer's vectors, to be read together at its first use.
    pub vectors: Vec<Vector>,
}

/// What queries, keys and values are made with.
#[derive(Debug, Clone)]
pub(crate) enum Attention {
    Heads(HeadProjections),
    Latent(LatentProjections),
}

/// Queries, keys and values of each head.
#[derive(Debug, Clone)]
pub(crate) struct HeadProjections {
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub q_bias: Option<Vector>,
    pub k_bias: Option<Vector>,
    pub v_bias: Option<Vector>,
    pub q_norm: Option<Vector>,
    pub k_norm: Option<Vector>,
}

/// Latent attention's projections.
#[derive(Debug, Clone)]
pub(crate) struct LatentProjections {
    pub query: LatentQuery,
    /// To what is kept of a token: the latent vector, then the rotated key.
    pub kept: Matrix,
    /// Norm of the latent vector.
    pub norm: Vector,
    /// For each head, from the plain part of its query to the latent vector's space; one matrix
    /// behind the other.
    pub key_heads: Matrix,
    /// For each head, from the latent vector to its value.
    pub value_heads: Matrix,
}

/// How latent attention makes queries.
#[derive(Debug, Clone)]
pub(crate) enum LatentQuery {
    Direct(Matrix),
    LowRank { low: Matrix, norm: Vector, high: Matrix },
}

/// What a layer has after attention.
#[derive(Debug, Clone)]
pub(crate) enum FeedForward {
    Dense(Box<Gated>),
    Experts(Box<Experts>),
}

/// A gated block: `down(activation(gate(x), up(x)))`.
#[derive(Debug, Clone)]
pub(crate) struct Gated {
    pub gate: Matrix,
    pub up: Matrix,
    pub gate_bias: Option<Vector>,
    pub up_bias: Option<Vector>,
    pub down: Matrix,
    pub down_bias: Option<Vector>,
}

/// A mixture of experts.
#[derive(Debug, Clone)]
pub(crate) struct Experts {
    pub router: Matrix,
    pub router_bias: Option<Vector>,
    /// Added to scores where experts are chosen.
    pub selection_bias: Option<Vector>,
    /// The block that every token passes.
    pub shared: Option<Gated>,
    /// One row: what the shared block's output is multiplied by, before the sigmoid.
    pub shared_router: Option<Matrix>,
    pub gate: Slices,
    pub up: Slices,
    pub down: Slices,
    /// One expert's biases behind the other's.
    pub gate_bias: Option<Vector>,
    pub up_bias: Option<Vector>,
    pub down_bias: Option<Vector>,
    /// Each expert's matrices as the store knows them; empty until [`Bound::cut`].
    pub units: Vec<UnitId>,
}

/// A bound model.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// The token embedding: its rows are looked up, a few in each pass.
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    pub rope_factors: Option<Vector>,
    pub output_norm: Vector,
    pub output: Matrix,
    /// What products need of activations.
    pub keeps: Keeps,
    /// Floats of all vectors together.
    pub vector_floats: usize,
    /// Weights of all tensors together.
    pub parameters: u64,
}

/// Binds every tensor of `config`.
///
/// # Errors
/// A tensor is missing, misshapen, of a type without a kernel, or unknown to the family.
pub(crate) fn bind(config: &ModelConfig, table: &TensorTable<'_>) -> Result<Bound, ModelError> {
    let specs = tensors::tensors(config);
    let known: HashSet<String> = specs.iter().map(TensorSpec::name).collect();
    let is_stray = |name: &str| !known.contains(name) && !tensors::is_draft_tensor(config, name);
    if let Some(stray) = table.entries().iter().find(|e| is_stray(e.tensor.name())) {
        return Err(tensor_error(
            stray.tensor.name(),
            "has no place in this family",
            format!("family {:?} would ignore it and answer wrongly", config.family.name),
        ));
    }
    let mut binder = Binder::new(config, table, &specs);
    let embedding = binder.matrix(Role::TokenEmbedding, None)?;
    let rope_factors = binder.optional(Role::RopeFactors, None)?;
    let mut layers = (0..config.layers).map(|i| binder.layer(i)).collect::<Result<Vec<_>, _>>()?;
    let output_norm = binder.vector(Role::OutputNorm, None)?;
    // Tied: where there is no output matrix, the embedding's rows serve.
    let output = match binder.present(Role::Output, None) {
        true => binder.matrix(Role::Output, None)?,
        false => embedding.clone(),
    };
    Ok(Bound {
        keeps: Keeps::of(&mut layers, &output),
        embedding,
        layers,
        rope_factors,
        output_norm,
        output,
        vector_floats: binder.floats,
        parameters: binder.parameters,
    })
}

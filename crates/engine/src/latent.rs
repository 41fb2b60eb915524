//! Latent attention (DeepSeek-V2, arXiv:2405.04434): a token keeps one vector of a small rank and one
//! rotated key, which all heads share.
//!
//! A head's keys and values are products of that vector with the head's matrices. Instead of making
//! them for every position, the key's matrix is applied to the query and the value's matrix to the
//! attention's result ("absorbed", the paper's section 2.1.2): attention then runs on what is kept, as
//! if all query heads shared one key/value head. The cached key is the rotated key followed by the
//! vector, so that rotation finds its dimensions in front.

use arrayvec::ArrayVec;
use lowtide_kernels::matmul::{MatmulJob, matmul};
use lowtide_kernels::norm;
use lowtide_model::{Latent, ModelConfig};

use crate::bind::{LatentProjections, LatentQuery, Matrix, Tile};
use crate::error::Error;
use crate::forward::{floats, usize_of};
use crate::linear::{Means, Target, linear};
use crate::scratch::Scratch;
use crate::slots::{Slots, TOGETHER_MAX, rows_together};

/// What latent attention works in, `[token][..]` each.
pub(crate) struct LatentScratch {
    /// Queries as projected: of each head the plain part, then the one to be rotated.
    query: Vec<f32>,
    /// The low-rank form of queries.
    low: Vec<f32>,
    /// The vector and the key to be rotated.
    kept: Vec<f32>,
    /// One head's operand.
    column: Vec<f32>,
    /// Results of some heads, `[head][token][..]`.
    heads: Vec<f32>,
    /// All heads' values.
    pub values: Vec<f32>,
}

/// Floats of each buffer for one token, in order of the fields; the last but one for one row.
fn lengths(config: &ModelConfig, latent: &Latent) -> [usize; 6] {
    [
        usize_of(config.heads * latent.query_length()),
        usize_of(latent.query_rank.unwrap_or(0)),
        usize_of(latent.kept_length()),
        usize_of(latent.plain_length.max(latent.rank)),
        usize_of(latent.rank.max(latent.value_length)),
        usize_of(config.heads * latent.value_length),
    ]
}

impl LatentScratch {
    pub(crate) fn new(config: &ModelConfig, latent: &Latent, batch: usize) -> Self {
        let [query, low, kept, column, heads, values] = lengths(config, latent);
        let zeros = |length: usize| vec![0.0; length * batch];
        Self {
            query: zeros(query),
            low: zeros(low),
            kept: zeros(kept),
            column: zeros(column),
            heads: vec![0.0; heads * rows_together(batch)],
            values: zeros(values),
        }
    }

    /// Bytes [`LatentScratch::new`] allocates.
    pub(crate) fn bytes_for(config: &ModelConfig, latent: &Latent, batch: usize) -> usize {
        let [query, low, kept, column, heads, values] = lengths(config, latent);
        let tokens = (query + low + kept + column + values) * batch;
        size_of::<f32>() * (tokens + heads * rows_together(batch))
    }
}

/// Queries, keys and values of `n` tokens, from their normed inputs in `s.activations`, into `s.q`, `s.k`
/// and `s.v`; not rotated yet.
pub(crate) fn project(
    means: &mut Means<'_>,
    s: &mut Scratch,
    projections: &LatentProjections,
    n: usize,
) -> Result<(), Error> {
    let (Some(own), Some(slots), Some(latent)) = (&mut s.latent, &mut s.slots, means.config.latent)
    else {
        return Err(Error::Unplanned("latent attention"));
    };
    let (rank, rotated) = (usize_of(latent.rank), usize_of(latent.rotated_length));
    let query = &mut own.query[..n * projections.query.rows()];
    let kept = &mut own.kept[..n * projections.kept.rows];
    let kept_target = Target { matrix: &projections.kept, out: kept };
    let eps = means.config.norm_epsilon;
    match &projections.query {
        LatentQuery::Direct(matrix) => {
            linear(means, &s.activations, &mut [Target { matrix, out: query }, kept_target])?;
        }
        LatentQuery::LowRank { low: matrix, norm, high } => {
            let low = &mut own.low[..n * matrix.rows];
            linear(means, &s.activations, &mut [Target { matrix, out: low }, kept_target])?;
            let weight = floats(means.vectors, *norm);
            norm::rms_norm_in_place(means.compute, low, weight, eps)?;
            s.activations.set(means.compute, low, matrix.rows, n)?;
            linear(means, &s.activations, &mut [Target { matrix: high, out: query }])?;
        }
    }
    let (k, v) = (&mut s.k[..n * (rank + rotated)], &mut s.v[..n * rank]);
    for (kept, v) in own.kept.chunks_exact(rank + rotated).zip(v.chunks_exact_mut(rank)) {
        v.copy_from_slice(&kept[..rank]);
    }
    norm::rms_norm_in_place(means.compute, v, floats(means.vectors, projections.norm), eps)?;
    let rows = own.kept.chunks_exact(rank + rotated).zip(v.chunks_exact(rank));
    for ((kept, v), k) in rows.zip(k.chunks_exact_mut(rank + rotated)) {
        k[..rotated].copy_from_slice(&kept[rank..]);
        k[rotated..].copy_from_slice(v);
    }
    let (plain, query_head) = (usize_of(latent.plain_length), usize_of(latent.query_length()));
    let q = &mut s.q[..n * usize_of(means.config.query_length())];
    for (from, to) in query.chunks_exact(query_head).zip(q.chunks_exact_mut(rank + rotated)) {
        to[..rotated].copy_from_slice(&from[plain..]);
    }
    let operands = Operands {
        from: query,
        from_head: query_head,
        to: q,
        to_head: rank + rotated,
        to_offset: rotated,
        column: &mut own.column,
        heads: &mut own.heads,
    };
    each_head(means, slots, &projections.key_heads, operands, n)
}

/// Values of all heads from the attention's results of `n` tokens in `s.attended`.
pub(crate) fn values(
    means: &mut Means<'_>,
    s: &mut Scratch,
    projections: &LatentProjections,
    n: usize,
) -> Result<(), Error> {
    let (Some(own), Some(slots)) = (&mut s.latent, &mut s.slots) else {
        return Err(Error::Unplanned("latent attention"));
    };
    let matrix = &projections.value_heads;
    let operands = Operands {
        from: &s.attended[..n * usize_of(means.config.attention_length())],
        from_head: matrix.columns,
        to: &mut own.values[..n * matrix.rows],
        to_head: matrix.unit_rows,
        to_offset: 0,
        column: &mut own.column,
        heads: &mut own.heads,
    };
    each_head(means, slots, matrix, operands, n)
}

impl LatentQuery {
    fn rows(&self) -> usize {
        match self {
            Self::Direct(matrix) | Self::LowRank { high: matrix, .. } => matrix.rows,
        }
    }
}

/// Where heads' operands lie and their results go, both `[token][head][..]`.
struct Operands<'o> {
    from: &'o [f32],
    /// Distance of heads; the operand is what comes first of each.
    from_head: usize,
    to: &'o mut [f32],
    to_head: usize,
    /// Where in its head a result begins.
    to_offset: usize,
    column: &'o mut [f32],
    heads: &'o mut [f32],
}

impl Operands<'_> {
    /// One head's operands of `n` tokens, together.
    fn column_of(&mut self, head: usize, len: usize, n: usize) -> &[f32] {
        let token_len = self.from.len() / n;
        let tokens = self.from.chunks_exact(token_len);
        for (from, to) in tokens.zip(self.column.chunks_exact_mut(len)) {
            to.copy_from_slice(&from[head * self.from_head..][..len]);
        }
        &self.column[..n * len]
    }

    /// Puts the results of `n` tokens of the head at `index` where they belong.
    fn put(&mut self, head: usize, index: usize, len: usize, n: usize) {
        let token_len = self.to.len() / n;
        let results = self.heads[index * n * len..(index + 1) * n * len].chunks_exact(len);
        for (to, from) in self.to.chunks_exact_mut(token_len).zip(results) {
            to[head * self.to_head + self.to_offset..][..len].copy_from_slice(from);
        }
    }
}

/// Multiplies each head's operand of `n` tokens with the head's matrix.
fn each_head(
    means: &mut Means<'_>,
    slots: &mut Slots,
    matrix: &Matrix,
    mut operands: Operands<'_>,
    n: usize,
) -> Result<(), Error> {
    let unit = matrix.unit_rows;
    let (format, k) = (matrix.format, matrix.columns);
    let sets = slots.holding(n);
    for at in matrix.tiles.clone() {
        let Tile { extent, first_row, rows } = means.tiles[at];
        let bytes = means.store.acquire(extent)?;
        let first = first_row / unit;
        let mut group = 0..sets.len().min(rows / unit);
        while !group.is_empty() {
            let mut jobs: ArrayVec<MatmulJob<'_>, TOGETHER_MAX> = ArrayVec::new();
            for (head, set) in group.clone().zip(sets.iter_mut()) {
                set.set(means.compute, operands.column_of(first + head, k, n), k, n)?;
            }
            let weights = bytes.chunks_exact(unit * matrix.row_bytes).skip(group.start);
            let outs = operands.heads.chunks_exact_mut(n * unit);
            for ((weights, x), out) in weights.zip(sets.iter()).zip(outs).take(group.len()) {
                let (rows, out_stride, out_row0) = (unit, unit, 0);
                jobs.push(MatmulJob { format, weights, rows, k, x, out, out_stride, out_row0 });
            }
            matmul(means.compute, &mut jobs)?;
            drop(jobs);
            for (index, head) in group.clone().enumerate() {
                operands.put(first + head, index, unit, n);
            }
            group = group.end..(group.end + sets.len()).min(rows / unit);
        }
    }
    Ok(())
}

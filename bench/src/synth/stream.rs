//! From plan to bytes, at the disk's speed.
//!
//! The data section is cut into pieces. Two threads make pieces, the caller's thread writes them in order. A tensor up to the size of a
//! pool is random throughout; a larger one is pieced together from a pool of random blocks of its format and scale, each piece from another place, with
//! one byte of every block changed: no two rows are equal, and it costs a copy instead of a generator.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use lowtide_gguf::GgmlType;

use super::Plan;
use super::rng::Rng;
use super::tensors::{Fill, TensorSpec};
use super::{blocks, direct, skew};

/// Bytes of a piece: large enough that a write is one request, small enough that a few in flight are cheap.
const PIECE_BYTES: u64 = 4 << 20;

/// Bytes of a pool. Beyond this size a tensor repeats blocks (changed by a byte) instead of drawing new ones.
const POOL_BYTES: u64 = 4 << 20;

/// Threads that make pieces.
const MAKERS: usize = 2;

/// Finished pieces that each maker may be ahead of the writer.
const PIECES_AHEAD: usize = 2;

/// A run of one tensor's data, in whole blocks, with the zeros that follow it.
#[derive(Copy, Clone, Debug)]
struct Piece {
    tensor: usize,
    /// Bytes into the tensor.
    start: u64,
    bytes: u64,
    /// Zeros after it, up to the next tensor.
    padding: u64,
}

/// Pools by format and standard deviation (as bits). Each is made once, by whoever needs it first.
type Pools = Mutex<HashMap<(GgmlType, u32), Arc<OnceLock<Vec<u8>>>>>;

/// Writes header and data to `out`.
pub(super) fn write(
    plan: &Plan,
    out: &mut impl Write,
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    out.write_all(&plan.layout.header)?;
    let mut written = plan.layout.header.len() as u64;
    let pieces = pieces(plan);
    let pools = Pools::default();
    std::thread::scope(|scope| {
        let receivers: Vec<Receiver<Vec<u8>>> = (0..MAKERS)
            .map(|maker| {
                let (sender, receiver) = sync_channel(PIECES_AHEAD);
                let (pieces, pools) = (&pieces, &pools);
                scope.spawn(move || {
                    for piece in pieces.iter().skip(maker).step_by(MAKERS) {
                        // The writer has gone: it failed, and says so itself.
                        if sender.send(make(plan, piece, pools)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        for at in 0..pieces.len() {
            let bytes = receivers[at % MAKERS].recv().map_err(io::Error::other)?;
            out.write_all(&bytes)?;
            written += bytes.len() as u64;
            progress(written);
        }
        Ok(())
    })
}

/// Writes beside `path`, and moves the file there when it is complete.
pub(super) fn write_file(
    plan: &Plan,
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut name = path.file_name().ok_or_else(|| io::Error::other("not a file name"))?.to_owned();
    name.push(".part");
    let partial = path.with_file_name(name);
    let written = direct::write_file(&partial, plan.layout.file_bytes, |mut out| {
        write(plan, &mut out, progress)
    });
    let result = written.and_then(|()| std::fs::rename(&partial, path));
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

fn pieces(plan: &Plan) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let ends = plan.layout.tensors.iter().skip(1).map(|next| next.offset);
    let ends = ends.chain([plan.layout.file_bytes]);
    for (tensor, (placement, end)) in plan.layout.tensors.iter().zip(ends).enumerate() {
        let block = plan.tensors[tensor].ty.layout().map_or(1, |l| l.bytes);
        let step = PIECE_BYTES / block * block;
        let mut start = 0;
        while start < placement.bytes {
            let bytes = step.min(placement.bytes - start);
            let last = start + bytes == placement.bytes;
            let padding = if last { end - placement.offset - placement.bytes } else { 0 };
            pieces.push(Piece { tensor, start, bytes, padding });
            start += bytes;
        }
    }
    pieces
}

fn make(plan: &Plan, piece: &Piece, pools: &Pools) -> Vec<u8> {
    let tensor = &plan.tensors[piece.tensor];
    let mut rng = Rng::of(&[plan.seed, (plan.first_tensor + piece.tensor) as u64, piece.start]);
    // Pieces have a few megabytes.
    let mut out = vec![0; (piece.bytes + piece.padding) as usize];
    let data = &mut out[..piece.bytes as usize];
    match tensor.fill {
        Fill::Uniform(low, high) => blocks::fill_uniform(low, high, &mut rng, data),
        Fill::RopeFactors(base, head, factor, context) => {
            rope_factors(base, head, factor, context, data);
        }
        Fill::Normal(std) | Fill::Marked(std, _)
            if plan.layout.tensors[piece.tensor].bytes <= POOL_BYTES =>
        {
            blocks::fill(tensor.ty, std, &mut rng, data);
        }
        Fill::Normal(std) | Fill::Marked(std, _) => {
            let pool = pool(plan.seed, tensor, std, pools);
            copy_varied(pool.get().map_or(&[], Vec::as_slice), tensor.ty, &mut rng, data);
        }
    }
    if let Fill::Marked(std, mark) = tensor.fill {
        skew::write(mark, tensor, std, (plan.seed, piece.start), data);
    }
    out
}

fn pool(seed: u64, tensor: &TensorSpec, std: f32, pools: &Pools) -> Arc<OnceLock<Vec<u8>>> {
    let key = (tensor.ty, std.to_bits());
    // A poisoned lock means that a maker panicked; the map itself is whole.
    let mut pools = pools.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pool = Arc::clone(pools.entry(key).or_default());
    drop(pools);
    pool.get_or_init(|| {
        let block = tensor.ty.layout().map_or(1, |l| l.bytes);
        let mut bytes = vec![0; (POOL_BYTES / block * block) as usize];
        let mut rng = Rng::of(&[seed, u64::from(tensor.ty.0), u64::from(std.to_bits())]);
        blocks::fill(tensor.ty, std, &mut rng, &mut bytes);
        bytes
    });
    pool
}

/// Fills `out` from `pool`, from a random block on and around its end, and varies one byte of each block.
fn copy_varied(pool: &[u8], ty: GgmlType, rng: &mut Rng, out: &mut [u8]) {
    let block = ty.layout().map_or(1, |l| l.bytes as usize);
    let blocks = (pool.len() / block).max(1) as u64;
    let mut from = rng.below(blocks) as usize * block;
    let mut rest = &mut *out;
    while !rest.is_empty() && !pool.is_empty() {
        let len = rest.len().min(pool.len() - from);
        let (head, tail) = rest.split_at_mut(len);
        head.copy_from_slice(&pool[from..from + len]);
        rest = tail;
        from = 0;
    }
    let vary = blocks::vary(ty);
    // Eight blocks to a random number; of single floats every sixteenth is enough.
    let stride = if block <= 4 { block * 16 } else { block };
    let mut bits = 0;
    for (i, block) in out.chunks_mut(stride).enumerate() {
        if i % 8 == 0 {
            bits = rng.next();
        }
        block[vary.byte] ^= bits as u8 & vary.mask;
        bits >>= 8;
    }
}

/// Llama 3.1's factors (as the model's reference code computes them): low frequencies are divided by `factor`, high ones kept, those between
/// interpolated. Low and high mean fewer than 1 and more than 4 turns in the original context.
fn rope_factors(base: f32, head: u64, factor: f32, context: u32, out: &mut [u8]) {
    let context = context as f32;
    for (i, bytes) in out.chunks_exact_mut(4).enumerate() {
        let wavelength = std::f32::consts::TAU * base.powf(2.0 * i as f32 / head as f32);
        let turns = context / wavelength;
        let smooth = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        let value = 1.0 / ((1.0 - smooth) / factor + smooth);
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Spec;
    use super::*;

    #[test]
    fn pieces_cover_the_file() {
        let spec = Spec::named("llama-1b", "q4_k_m").unwrap();
        let plan = super::super::plan(&spec).unwrap();
        let total: u64 = pieces(&plan).iter().map(|p| p.bytes + p.padding).sum();
        assert_eq!(total + plan.layout.header.len() as u64, plan.layout.file_bytes);
    }

    /// Rows of a pooled tensor are told apart, and the scale stays what it was.
    #[test]
    fn pooled_rows_differ() {
        for ty in [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q6_K, GgmlType::F32, GgmlType::BF16] {
            let layout = ty.layout().unwrap();
            let (row, rows) = (1024 / layout.len * layout.bytes, 4096);
            let mut pool = vec![0; (row * 64) as usize];
            blocks::fill(ty, 0.1, &mut Rng::of(&[1]), &mut pool);
            let mut out = vec![0; (row * rows) as usize];
            copy_varied(&pool, ty, &mut Rng::of(&[2]), &mut out);
            let distinct: std::collections::HashSet<&[u8]> =
                out.chunks_exact(row as usize).collect();
            assert_eq!(distinct.len() as u64, rows, "{ty}");
        }
    }
}

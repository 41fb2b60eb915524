//! Writes GGUF files of exact shapes with random weights of plausible scale.
//!
//! The arrow: [`Shape`] (what the model is) + [`Mix`] (how each tensor is stored) + [`Vocab`] + seed = [`Spec`] -> [`Plan`] (the
//! header, and what each tensor holds) -> bytes in file order. Everything follows from the spec: the same spec gives the same bytes
//! on any machine and with any number of threads.
//!
//! Weights are drawn so that activations neither explode nor vanish: a matrix with rows of `n` elements has a standard
//! deviation of `gain / sqrt(n)`, norms are near 1. The model computes nonsense, but it computes it with ordinary numbers.

mod blocks;
mod catalogue;
mod direct;
mod metadata;
mod mix;
mod rng;
pub(crate) use rng::Rng;
mod shape;
mod skew;
mod stream;
mod tensors;
mod tiny;
mod vocab;

use std::path::{Path, PathBuf};

use lowtide_gguf::split;
use lowtide_gguf::write::{HeaderWriter, Layout};

pub use mix::{Mix, Role, format_named};
pub use shape::{Experts, Family, Latent, Rope, Routing, Shape};
pub use skew::{Mark, Skew};
pub use tensors::{Fill, TensorSpec};
pub use vocab::Vocab;

/// Everything that determines a synthetic file.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What the model is.
    pub shape: Shape,
    /// How each tensor is stored.
    pub mix: Mix,
    /// The tokenizer.
    pub vocab: Vocab,
    /// Same seed, same bytes.
    pub seed: u64,
}

impl Spec {
    /// `shape` stored as `mix`, with the built-in vocabulary and seed 0.
    #[must_use]
    pub fn new(shape: Shape, mix: Mix) -> Spec {
        Spec { shape, mix, vocab: Vocab::Builtin, seed: 0 }
    }

    /// The spec of a named shape (see [`Shape::named`]) and mix (see [`Mix::named`]).
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such shape or mix.
    pub fn named(shape: &str, mix: &str) -> Result<Spec, Error> {
        Ok(Spec::new(Shape::named(shape)?, Mix::named(mix)?))
    }
}

/// A spec worked out: the header's bytes and each tensor's place and contents.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Header bytes, placement of each tensor, length of the file.
    pub layout: Layout,
    /// The tensors in file order.
    pub tensors: Vec<TensorSpec>,
    /// How many tensors of the model come before these: 0 but for the later shards of a split set.
    pub first_tensor: usize,
    /// Seed of the weights.
    pub seed: u64,
}

impl Plan {
    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum()
    }
}

/// Works out what a file of this spec holds, without writing anything.
///
/// # Errors
/// [`Error::Shape`] if the shape contradicts itself, [`Error::Vocab`] if the vocabulary cannot be read.
pub fn plan(spec: &Spec) -> Result<Plan, Error> {
    let tensors = list(spec)?;
    let mut writer = HeaderWriter::new();
    put_model(&mut writer, spec)?;
    lay_out(writer, spec, tensors, 0)
}

/// Works out a split set of `count` files that together hold what the one file of [`plan`] does, to the byte of each tensor. The shards
/// are of about equal size.
///
/// # Errors
/// Those of [`plan`]; [`Error::Shape`] if there are not enough tensors.
pub fn plan_shards(spec: &Spec, count: u16) -> Result<Vec<Plan>, Error> {
    let mut tensors = list(spec)?;
    let total = tensors.len();
    if count == 0 || usize::from(count) > total {
        let why = format!("{total} tensors cannot fill {count} shards");
        return Err(Error::Shape { name: spec.shape.name.clone(), why });
    }
    let all_bytes: u64 = tensors.iter().map(TensorSpec::bytes).sum();
    let mut done_bytes = 0;
    let mut plans = Vec::new();
    for no in 0..count {
        let first_tensor = total - tensors.len();
        let until = all_bytes / u64::from(count) * u64::from(no + 1);
        // Every shard has a tensor and leaves one to each of the rest; the last takes what is left.
        let most = tensors.len() - usize::from(count - no - 1);
        let mut take = 0;
        while take < most && (take == 0 || done_bytes < until || no + 1 == count) {
            done_bytes += tensors[take].bytes();
            take += 1;
        }
        let rest = tensors.split_off(take);
        let mut writer = HeaderWriter::new();
        if no == 0 {
            put_model(&mut writer, spec)?;
        }
        // A 16-bit and a signed 32-bit number, as gguf-split writes them; there are far fewer tensors than 2^31.
        writer.u16("split.no", no).u16("split.count", count);
        writer.i32("split.tensors.count", total as i32);
        plans.push(lay_out(writer, spec, std::mem::replace(&mut tensors, rest), first_tensor)?);
    }
    Ok(plans)
}

fn list(spec: &Spec) -> Result<Vec<TensorSpec>, Error> {
    spec.shape.check()?;
    tensors::list(&spec.shape, &spec.mix)
}

fn put_model(writer: &mut HeaderWriter, spec: &Spec) -> Result<(), Error> {
    metadata::put(writer, spec);
    vocab::put(writer, &spec.vocab, spec.shape.vocabulary)
}

fn lay_out(
    mut writer: HeaderWriter,
    spec: &Spec,
    tensors: Vec<TensorSpec>,
    first_tensor: usize,
) -> Result<Plan, Error> {
    for tensor in &tensors {
        writer.tensor(&tensor.name, &tensor.dims, tensor.ty);
    }
    let layout = writer.finish()?;
    Ok(Plan { layout, tensors, first_tensor, seed: spec.seed })
}

/// The whole file in memory: for tests with tiny shapes.
///
/// # Errors
/// Those of [`plan`].
pub fn to_bytes(spec: &Spec) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    write(spec, &mut out)?;
    Ok(out)
}

/// Writes the whole file to `out`, front to back. Gives its length.
///
/// # Errors
/// Those of [`plan`], and [`Error::Io`].
pub fn write(spec: &Spec, out: &mut impl std::io::Write) -> Result<u64, Error> {
    let plan = plan(spec)?;
    stream::write(&plan, out, &mut |_| ())
        .map_err(|source| Error::Io { path: PathBuf::from("the output"), source })?;
    Ok(plan.layout.file_bytes)
}

/// Writes the file at `path`, replacing what is there only when it is complete. `progress` is told the bytes written so far.
/// Gives the file's length.
///
/// # Errors
/// Those of [`plan`], and [`Error::Io`]; nothing half-written is left at `path`.
pub fn write_file(spec: &Spec, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<u64, Error> {
    let plan = plan(spec)?;
    let io_error = |source| Error::Io { path: path.to_owned(), source };
    stream::write_file(&plan, path, progress).map_err(io_error)?;
    Ok(plan.layout.file_bytes)
}

/// Writes a split set beside `base`: for `dir/name` the files `dir/name-00001-of-0000N.gguf` and so on. `progress` is told the bytes
/// written of the file being written. Gives the paths.
///
/// # Errors
/// Those of [`plan_shards`], and [`Error::Io`].
pub fn write_shards(
    spec: &Spec,
    count: u16,
    base: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<PathBuf>, Error> {
    let name = base.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    let mut paths = Vec::new();
    for (no, plan) in (1..).zip(plan_shards(spec, count)?) {
        let path = base.with_file_name(split::shard_name(&name, no, count.into()));
        let io_error = |source| Error::Io { path: path.clone(), source };
        stream::write_file(&plan, &path, progress).map_err(io_error)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Why a synthetic file cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No shape or mix of this name.
    #[error("no {kind} is called {name:?}\nthere are: {known}")]
    Name {
        /// `shape`, `mix` or `format`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A shape that contradicts itself.
    #[error("shape {name} is impossible\n{why}")]
    Shape {
        /// The shape.
        name: String,
        /// What does not fit.
        why: String,
    },
    /// A vocabulary that cannot be copied.
    #[error("cannot take the vocabulary of {}\n{why}", path.display())]
    Vocab {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The header cannot be expressed.
    #[error(transparent)]
    Gguf(#[from] lowtide_gguf::Error),
    /// Writing failed.
    #[error("cannot write {}\n{source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

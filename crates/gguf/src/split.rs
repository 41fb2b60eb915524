//! Split sets: `NAME-00001-of-00003.gguf` and its companions, as `gguf-split` writes them.
//!
//! The first shard holds all metadata; each shard holds `split.no` (from 0), `split.count`, `split.tensors.count` (of the whole set)
//! and its own tensor table. Shard names are computed from the name of the one that was given, never read from a file, so no file
//! can make lowtide open a path of its choice.

use crate::error::{Error, quote};
use crate::index::NameIndex;
use crate::limits;
use crate::parse::Gguf;
use crate::tensor::TensorInfo;

/// What a shard says about its set.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SplitInfo {
    /// This shard's place, from 0.
    pub no: u32,
    /// Shards in the set, at least 1.
    pub count: u32,
    /// Tensors in all shards together, where stated.
    pub tensors: Option<u64>,
}

impl SplitInfo {
    /// Reads the `split.*` keys; `None` where the file is not a shard.
    ///
    /// # Errors
    /// [`Error::Split`] if they contradict each other, and the errors of typed access.
    pub fn read(gguf: &Gguf<'_>) -> Result<Option<SplitInfo>, Error> {
        let Some(count) = gguf.get_u32("split.count")? else {
            return Ok(None);
        };
        let no = gguf
            .get_u32("split.no")?
            .ok_or_else(|| Error::MissingKey { key: "split.no".into() })?;
        let tensors = gguf.get_u64("split.tensors.count")?;
        // Writers leave `split.count` = 0 in files that were merged back.
        if count == 0 {
            return Ok(None);
        }
        if count > limits::SHARDS_MAX || no >= count {
            let why =
                format!("keys split.no = {no} and split.count = {count} contradict each other");
            return Err(Error::Split { why, pattern: pattern(count) });
        }
        Ok(Some(SplitInfo { no, count, tensors }))
    }
}

/// The file names of all shards of the set that the shard named `file_name` (without directories) belongs to, in order.
///
/// # Errors
/// [`Error::Split`] if the name is not of the form `NAME-00001-of-00003.gguf`, is a path, or says something else than `info`.
pub fn shard_names(file_name: &str, info: SplitInfo) -> Result<Vec<String>, Error> {
    let wrong = |why: &str| Error::Split {
        why: format!("shard name {} {why}", quote(file_name.as_bytes())),
        pattern: pattern(info.count),
    };
    if file_name.contains(['/', '\\', '\0']) {
        return Err(wrong("is a path, not a name"));
    }
    if info.count == 1 {
        return Ok(vec![file_name.to_owned()]);
    }
    let (base, no, count) =
        parse_name(file_name).ok_or_else(|| wrong("does not end in -0000N-of-0000M.gguf"))?;
    if count != info.count {
        return Err(wrong(&format!(
            "says {count} shards, its key split.count says {}",
            info.count
        )));
    }
    if no.checked_sub(1) != Some(info.no) {
        return Err(wrong(&format!("says shard {no}, its key split.no says {} (from 0)", info.no)));
    }
    Ok((1..=count).map(|no| shard_name(base, no, count)).collect())
}

/// `base`, `no` (from 1) and `count` as one shard's file name.
#[must_use]
pub fn shard_name(base: &str, no: u32, count: u32) -> String {
    format!("{base}-{no:05}-of-{count:05}.gguf")
}

/// Base name, number (from 1) and count of a shard's file name.
#[must_use]
pub fn parse_name(file_name: &str) -> Option<(&str, u32, u32)> {
    let stem = file_name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (base, no) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (no, count) = (number(no)?, number(count)?);
    (!base.is_empty() && (1..=count).contains(&no)).then_some((base, no, count))
}

fn pattern(count: u32) -> String {
    format!("NAME-00001-of-{count:05}.gguf to NAME-{count:05}-of-{count:05}.gguf")
}

/// A tensor and the shard its data lies in.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct ShardTensor<'a> {
    /// Index of the shard, from 0.
    pub shard: u32,
    /// The entry; offsets are in that shard's file.
    pub tensor: TensorInfo<'a>,
}

/// The tensors of a whole set (or of one file) in one table.
#[derive(Clone, Debug, Default)]
pub struct TensorTable<'a> {
    entries: Vec<ShardTensor<'a>>,
    index: NameIndex,
}

impl<'a> TensorTable<'a> {
    /// Merges the tables of all shards, given in order. One file that is not split is a set of one.
    ///
    /// # Errors
    /// [`Error::Split`] if a shard is missing, repeated, out of place, of another set, or if the tensors' number is not the one
    /// stated; [`Error::DuplicateTensor`] if two shards hold the same tensor.
    pub fn merge(shards: &[Gguf<'a>]) -> Result<TensorTable<'a>, Error> {
        let stated = check_set(shards)?;
        let mut table = TensorTable::default();
        for (shard, gguf) in (0u32..).zip(shards) {
            for tensor in gguf.tensors() {
                table.push(shard, *tensor)?;
            }
        }
        let found = table.entries.len() as u64;
        match stated {
            Some(stated) if stated != found => Err(Error::Split {
                why: format!(
                    "the shards hold {found} tensors, key split.tensors.count says {stated}"
                ),
                pattern: pattern(shards.len() as u32),
            }),
            _ => Ok(table),
        }
    }

    fn push(&mut self, shard: u32, tensor: TensorInfo<'a>) -> Result<(), Error> {
        let entries = &self.entries;
        // Each file has below 2^24 tensors and there are below 2^16 shards; a set that large could not be held in memory before
        // positions overflow, but the check costs nothing.
        let position = u32::try_from(entries.len()).unwrap_or(u32::MAX - 1);
        let known =
            self.index.insert(tensor.name(), position, |at| entries[at as usize].tensor.name());
        if let Err(first) = known {
            let at = |shard: u32, tensor: &TensorInfo<'_>| {
                format!("in shard {} at offset {}", shard + 1, tensor.entry_offset())
            };
            let first = &entries[first as usize];
            return Err(Error::DuplicateTensor {
                name: tensor.name().to_owned(),
                first: at(first.shard, &first.tensor),
                again: at(shard, &tensor),
            });
        }
        self.entries.push(ShardTensor { shard, tensor });
        Ok(())
    }

    /// All tensors, shard after shard, each in file order.
    #[must_use]
    pub fn entries(&self) -> &[ShardTensor<'a>] {
        &self.entries
    }

    /// The tensor of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&ShardTensor<'a>> {
        let at = self.index.find(name, |at| self.entries[at as usize].tensor.name())?;
        self.entries.get(at as usize)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] if there is none.
    pub fn require(&self, name: &str) -> Result<&ShardTensor<'a>, Error> {
        self.find(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            count: self.entries.len() as u64,
        })
    }
}

/// Checks that the shards are one whole set in order. Gives the stated number of tensors.
fn check_set(shards: &[Gguf<'_>]) -> Result<Option<u64>, Error> {
    let count = shards.len() as u32;
    let wrong = |why: String| Err(Error::Split { why, pattern: pattern(count) });
    let mut stated = None;
    for (shard, gguf) in (0u32..).zip(shards) {
        let Some(info) = SplitInfo::read(gguf)? else {
            if count == 1 {
                return Ok(None);
            }
            return wrong(format!("file {} of {count} has no key split.count", shard + 1));
        };
        if info.count != count {
            return wrong(format!(
                "shard {} says the set has {} shards (key split.count), {count} were given",
                shard + 1,
                info.count
            ));
        }
        if info.no != shard {
            return wrong(format!(
                "file {} of {count} is shard {} (key split.no = {}): one is missing or repeated",
                shard + 1,
                info.no + 1,
                info.no
            ));
        }
        if shard > 0 && info.tensors != stated {
            return wrong(format!(
                "shard {} is of another set: key split.tensors.count is not that of shard 1",
                shard + 1
            ));
        }
        stated = info.tensors;
    }
    Ok(stated)
}

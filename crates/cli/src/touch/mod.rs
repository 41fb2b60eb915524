//! `run --touch`: which bytes of the file each token used, by the store's own record, and beside it
//! what the processor marked in the page tables meanwhile.

mod heat;
mod picture;
mod ranges;

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lowtide_engine::Engine;
use lowtide_mapping::{Process, clear_referenced, page_size};
use lowtide_residency::{PinnedIn, Placement, SourceId, Touches};
use serde::Serialize;

use self::heat::{COLUMNS, Heat};
use crate::commands::map::layout::Layout;
use crate::commands::map::{png, svg};
use crate::failure::Failure;
use crate::human;
use crate::observe::Pass;
use crate::out_file::OutFile;

/// Ranges of the token at hand and of all before it, and a token's line of JSON: tens of thousands of ranges where a
/// model has thousands of experts.
const RANGES_BYTES: u64 = 4 << 20;
/// Of each token of a prompt: its row of the embedding, and that among the ranges.
const PROMPT_TOKEN_BYTES: u64 = 256;
/// The picture's pixels, and what they are written from.
const PIXELS_BYTES: u64 = 12 << 20;

/// Bytes that a record keeps at most, for a prompt of so many tokens: it does not grow with the answer.
pub fn claim_bytes(paths: &[PathBuf], prompt_tokens: usize) -> u64 {
    let lists = RANGES_BYTES + heat::BYTES_MAX + PROMPT_TOKEN_BYTES * prompt_tokens as u64;
    let is_drawn = |path: &PathBuf| path.extension().is_some_and(|ending| ending != "json");
    if paths.iter().any(is_drawn) { lists + picture::BYTES_MAX + PIXELS_BYTES } else { lists }
}

/// What is written into a file, by its name.
enum Target {
    Json(OutFile),
    Svg(OutFile),
    Png(OutFile),
}

/// One token's line of the document.
#[derive(Serialize)]
struct Token<'a> {
    token: usize,
    phase: &'static str,
    /// Tokens that went in: the prompt's, then one.
    tokens_in: usize,
    seconds: f64,
    bytes: u64,
    share: f64,
    /// Of these bytes, those that no token before used.
    first_used_bytes: u64,
    /// Null where the kernel's marks say nothing about this token.
    kernel: Option<Marks>,
    /// First byte, and the byte after the last; files of a split set end to end.
    ranges: &'a [Range<u64>],
}

/// Pages of the mapping.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
struct Marks {
    /// Marked as referenced by the processor.
    referenced_bytes: u64,
    /// Whole pages that hold the bytes which were used through the mapping.
    expected_bytes: u64,
}

/// Sums over an answer.
#[derive(Serialize, Clone, Debug, PartialEq)]
pub struct Summary {
    file_bytes: u64,
    tokens: usize,
    bytes: u64,
    share: f64,
    bytes_per_token: u64,
    share_per_token: f64,
    kernel: Option<KernelSummary>,
}

/// How the two counts agree.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
struct KernelSummary {
    tokens: u64,
    referenced_bytes_per_token: u64,
    expected_bytes_per_token: u64,
    /// Of the expected bytes: 0.01 is one percent more.
    difference: f64,
}

/// The record of one answer.
pub struct Recorder {
    targets: Vec<Target>,
    layout: Layout,
    file_bytes: u64,
    /// Where each file begins when all lie end to end, and the same in whole pages.
    bases: Vec<(u64, u64)>,
    vectors: Vec<Range<u64>>,
    /// Of the token at hand.
    now: Vec<Range<u64>>,
    now_mapped: Vec<Range<u64>>,
    /// Of all tokens so far.
    ever: Vec<Range<u64>>,
    heat: Heat,
    tokens: usize,
    seconds: f64,
    bytes_sum: u64,
    decoded: u64,
    marks: (u64, Marks),
    /// The marks were cleared before this pass.
    cleared: bool,
}

impl Recorder {
    /// Opens the files: what cannot be written is said before the model is loaded.
    pub fn create(paths: &[PathBuf], model: &Path) -> Result<Self> {
        let targets = paths.iter().map(|path| target(path)).collect::<Result<Vec<_>, _>>()?;
        let layout = Layout::read(model)?;
        let page = page_size() as u64;
        let mut bases = Vec::new();
        let (mut base, mut page_base) = (0, 0);
        for file in &layout.shards {
            bases.push((base, page_base));
            base += file.size();
            page_base += file.size().next_multiple_of(page);
        }
        let no_marks = Marks { referenced_bytes: 0, expected_bytes: 0 };
        Ok(Self {
            targets,
            file_bytes: base,
            layout,
            bases,
            vectors: Vec::new(),
            now: Vec::new(),
            now_mapped: Vec::new(),
            ever: Vec::new(),
            heat: Heat::default(),
            tokens: 0,
            seconds: 0.0,
            bytes_sum: 0,
            decoded: 0,
            marks: (0, no_marks),
            cleared: false,
        })
    }

    /// Begins to record, for prompts of up to `prompt` tokens.
    pub fn begin(&mut self, engine: &Engine, model: &Path, prompt: usize) -> Result<()> {
        engine.record_touches(prompt.max(1));
        let place = |at: SourceId, offset: u64, len: u64| {
            let (base, _) = self.bases.get(at.0 as usize).copied().unwrap_or_default();
            base + offset..base + offset + len
        };
        self.vectors = engine.vector_ranges().map(|v| place(v.source, v.offset, v.len)).collect();
        let head = serde_json::json!({
            "path": model.to_string_lossy(),
            "architecture": engine.config().family.name,
            "file_bytes": self.file_bytes,
            "page_bytes": page_size(),
        });
        self.write_json(&format!("{{\"model\":{head},\"tokens\":["))
    }

    /// Before a pass: the processor's marks are cleared, where they will say something.
    pub fn before(&mut self, is_prompt: bool) {
        // The prompt's pass brings the pages in, which marks them as well.
        self.cleared = !is_prompt && clear_referenced().is_ok();
    }

    /// After a pass.
    pub fn after(&mut self, engine: &Engine, pass: &Pass) -> Result<()> {
        let kernel = self.marks(engine);
        let store = engine.store();
        let (now, mapped, bases) = (&mut self.now, &mut self.now_mapped, &self.bases);
        now.clear();
        now.extend(self.vectors.iter().cloned());
        mapped.clear();
        store.take_touches(|touches| collect(engine, touches, bases, now, mapped));
        ranges::normalise(now);
        ranges::normalise(mapped);
        let expected_bytes = ranges::bytes(mapped);
        let kernel = kernel.map(|referenced_bytes| Marks { referenced_bytes, expected_bytes });
        let before = ranges::bytes(&self.ever);
        self.ever.extend(self.now.iter().cloned());
        ranges::normalise(&mut self.ever);
        let bytes = ranges::bytes(&self.now);
        self.seconds += pass.seconds;
        let token = Token {
            token: self.tokens,
            phase: if pass.is_prompt { "prompt" } else { "answer" },
            tokens_in: pass.tokens,
            seconds: self.seconds,
            bytes,
            share: bytes as f64 / self.file_bytes.max(1) as f64,
            first_used_bytes: ranges::bytes(&self.ever) - before,
            kernel,
            ranges: &self.now,
        };
        let comma = if self.tokens > 0 { ",\n" } else { "\n" };
        let line = format!("{comma}{}", serde_json::to_string(&token)?);
        self.write_json(&line)?;
        if let Some(marks) = kernel {
            self.marks.0 += 1;
            self.marks.1.referenced_bytes += marks.referenced_bytes;
            self.marks.1.expected_bytes += marks.expected_bytes;
        }
        if !pass.is_prompt {
            self.bytes_sum += bytes;
            self.decoded += 1;
        }
        let mut shares = vec![0.0; COLUMNS];
        ranges::spread(&self.now, self.file_bytes, &mut shares);
        self.heat.push(self.seconds, self.as_shares(shares));
        self.tokens += 1;
        Ok(())
    }

    /// Ends the files, gives them their names.
    pub fn finish(mut self) -> Result<Summary> {
        let summary = self.summary();
        let answer = serde_json::to_string(&summary)?;
        self.write_json(&format!("\n],\"answer\":{answer}}}\n"))?;
        let mut columns = vec![0.0; COLUMNS];
        ranges::spread(&self.ever, self.file_bytes, &mut columns);
        let ever = self.as_shares(columns);
        let picture = picture::picture(&self.layout, &self.heat, &ever, &summary);
        for target in self.targets {
            match target {
                Target::Json(file) => file.commit()?,
                Target::Svg(file) => file.fill(|out| svg::svg(&picture, out))?,
                Target::Png(file) => {
                    let bytes = png::png(&picture).map_err(|error| {
                        Failure::running("the picture cannot be encoded").why(error)
                    })?;
                    file.put(&bytes)?;
                }
            }
        }
        Ok(summary)
    }

    fn as_shares(&self, mut columns: Vec<f32>) -> Vec<f32> {
        let width = (self.file_bytes as f32 / columns.len() as f32).max(1.0);
        columns.iter_mut().for_each(|bytes| *bytes = (*bytes / width).min(1.0));
        columns
    }

    /// Bytes of the mappings' pages that the processor has marked since they were cleared; `None`
    /// where pages came in meanwhile, which marks them too.
    fn marks(&self, engine: &Engine) -> Option<u64> {
        if !self.cleared || engine.store().stats().last.populated_bytes > 0 {
            return None;
        }
        let mut sum = 0;
        for shard in engine.model().shards() {
            let mappings = Process::this().mappings_of(&shard.file.identity()).ok()?;
            sum += mappings.iter().map(|mapping| mapping.referenced_bytes).sum::<u64>();
        }
        Some(sum)
    }

    fn write_json(&mut self, text: &str) -> Result<()> {
        for target in &mut self.targets {
            if let Target::Json(file) = target {
                file.write_all(text.as_bytes()).map_err(|error| file.failed(&error))?;
            }
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        let total = self.file_bytes.max(1) as f64;
        let bytes = ranges::bytes(&self.ever);
        // Without a token after the prompt's, the prompt's pass is all there is to tell of.
        let per_token = match self.decoded {
            0 => ranges::bytes(&self.now),
            decoded => self.bytes_sum / decoded,
        };
        let (tokens, sums) = self.marks;
        let kernel = (tokens > 0 && sums.expected_bytes > 0).then(|| KernelSummary {
            tokens,
            referenced_bytes_per_token: sums.referenced_bytes / tokens,
            expected_bytes_per_token: sums.expected_bytes / tokens,
            difference: sums.referenced_bytes as f64 / sums.expected_bytes as f64 - 1.0,
        });
        Summary {
            file_bytes: self.file_bytes,
            tokens: self.tokens,
            bytes,
            share: bytes as f64 / total,
            bytes_per_token: per_token,
            share_per_token: per_token as f64 / total,
            kernel,
        }
    }
}

/// The ranges that a pass has used: all of them, and those read through the mapping in whole pages.
fn collect(
    engine: &Engine,
    touches: &Touches,
    bases: &[(u64, u64)],
    now: &mut Vec<Range<u64>>,
    mapped: &mut Vec<Range<u64>>,
) {
    let plan = engine.store().plan();
    let page = page_size() as u64;
    let mut add = |source: SourceId, offset: u64, len: u64, in_mapping: bool| {
        let (base, page_base) = bases.get(source.0 as usize).copied().unwrap_or_default();
        now.push(base + offset..base + offset + len);
        if in_mapping {
            let (start, end) = (offset / page * page, (offset + len).next_multiple_of(page));
            mapped.push(page_base + start..page_base + end);
        }
    };
    let pinned_in_mapping = plan.input.pinned_in == PinnedIn::Mapping;
    for x in plan.extents().iter().filter(|x| touches.has(x.id)) {
        let pinned = plan.placement(x.id) == Some(Placement::Pinned);
        add(x.source, x.offset, x.len, pinned && pinned_in_mapping);
    }
    for row in touches.rows() {
        add(row.source, row.offset, row.len, plan.rows_are_resident());
    }
}

fn target(path: &Path) -> Result<Target, Failure> {
    let file = OutFile::create(path, "--touch")?;
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    Ok(match ending.to_str() {
        Some("svg") => Target::Svg(file),
        Some("png") => Target::Png(file),
        _ => Target::Json(file),
    })
}

impl Summary {
    /// Lines for people.
    pub fn lines(&self) -> Vec<String> {
        let of = |bytes: u64| {
            format!(
                "{} ({:.1} % of the file)",
                human::bytes(bytes),
                100.0 * bytes as f64 / self.file_bytes.max(1) as f64
            )
        };
        let (each, all) = (of(self.bytes_per_token), of(self.bytes));
        let mut lines =
            vec![format!("touch   a token used {each}, all {} together {all}", self.tokens)];
        lines.push(match &self.kernel {
            Some(kernel) => format!(
                "        the processor marked {} a token as referenced, {:+.2} % of the {} of whole pages expected",
                human::bytes(kernel.referenced_bytes_per_token),
                100.0 * kernel.difference,
                human::bytes(kernel.expected_bytes_per_token),
            ),
            None => "        no marks to compare with: pages came and went, or the kernel keeps none".to_owned(),
        });
        lines
    }
}

//! `--metrics`: a line of JSON for each token, as it comes.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use lowtide_engine::Engine;
use serde::Serialize;

use crate::observe::Pass;
use crate::out_file::OutFile;
use crate::watch::Watch;

/// A token, and the pass that made it.
#[derive(Serialize, Clone, Copy)]
struct Line {
    /// From 0, over all answers.
    token: u64,
    /// `prompt` if the prompt's pass made it.
    phase: &'static str,
    /// Tokens that went in.
    tokens_in: usize,
    /// Tokens that the session holds.
    position: usize,
    /// The token; null where the model ended its answer instead.
    id: Option<u32>,
    /// Seconds of the pass, all batches of a prompt; of these, the disk was waited for.
    seconds: f64,
    wait_s: f64,
    compute_s: f64,
    read_bytes: u64,
    disk_bytes_per_s: f64,
    rss_bytes: u64,
    charge_bytes: Option<u64>,
    page_table_bytes: u64,
    budget_bytes: u64,
}

/// The file.
pub struct Metrics {
    out: OutFile,
    token: u64,
    /// Waits for the token's id.
    pending: Option<Line>,
}

impl Metrics {
    /// Begins the file under another name: a run that is refused leaves what was there.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { out: OutFile::create(path, "--metrics")?, token: 0, pending: None })
    }

    /// The model is loaded: from here on the lines can be followed.
    pub fn begin(&mut self) -> Result<()> {
        Ok(self.out.publish()?)
    }

    /// A pass has ended.
    pub fn after(&mut self, engine: &Engine, pass: &Pass, watch: &Watch) -> Result<()> {
        self.write()?;
        let wait_s = pass.store.wait_s.min(pass.seconds);
        let seen = watch.seen();
        self.pending = Some(Line {
            token: self.token,
            phase: if pass.is_prompt { "prompt" } else { "answer" },
            tokens_in: pass.tokens,
            position: pass.position,
            id: None,
            seconds: pass.seconds,
            wait_s,
            compute_s: pass.seconds - wait_s,
            read_bytes: pass.store.read_bytes(),
            disk_bytes_per_s: pass.store.disk_bytes_per_s(),
            rss_bytes: seen.rss_bytes,
            charge_bytes: seen.charge_bytes,
            page_table_bytes: seen.page_table_bytes,
            budget_bytes: engine.budget().total_bytes,
        });
        self.token += 1;
        Ok(())
    }

    /// The token of the last pass.
    pub fn chosen(&mut self, id: u32) -> Result<()> {
        if let Some(line) = &mut self.pending {
            line.id = Some(id);
        }
        self.write()
    }

    /// Writes the line that waits, whole.
    pub fn write(&mut self) -> Result<()> {
        let Some(line) = self.pending.take() else { return Ok(()) };
        let text = serde_json::to_string(&line)? + "\n";
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        Ok(written.map_err(|error| self.out.failed(&error))?)
    }
}

//! Those who keep books while an answer is made. Each is there only if it was asked for.

use anyhow::Result;
use lowtide_engine::Engine;
use lowtide_residency::PassStats;

use crate::live::Live;
use crate::metrics::Metrics;
use crate::touch;
use crate::watch::Watch;

/// A pass that has been made.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Whether it read the prompt.
    pub is_prompt: bool,
    /// Tokens that went in.
    pub tokens: usize,
    /// Tokens that the session holds now.
    pub position: usize,
    /// How long it took.
    pub seconds: f64,
    /// What the store did meanwhile, in all batches of a prompt.
    pub store: PassStats,
}

/// All of them.
#[derive(Default)]
pub struct Observers {
    /// Which bytes are used.
    pub touch: Option<touch::Recorder>,
    /// A line for each token.
    pub metrics: Option<Metrics>,
    /// The line on the terminal.
    pub live: Option<Live>,
}

impl Observers {
    /// A pass is about to begin.
    pub fn before(&mut self, is_prompt: bool) {
        if let Some(touch) = &mut self.touch {
            touch.before(is_prompt);
        }
    }

    /// A pass has ended.
    pub fn after(&mut self, engine: &Engine, pass: &Pass, watch: &Watch) -> Result<()> {
        if let Some(touch) = &mut self.touch {
            touch.after(engine, pass)?;
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.after(engine, pass, watch)?;
        }
        if let Some(live) = &self.live {
            live.after(pass);
        }
        Ok(())
    }

    /// A token has been chosen.
    pub fn chosen(&mut self, id: u32) -> Result<()> {
        self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.chosen(id))
    }

    /// The answer has ended.
    pub fn end(&mut self) -> Result<()> {
        self.live = None;
        self.metrics.as_mut().map_or(Ok(()), Metrics::write)
    }
}

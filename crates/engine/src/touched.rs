//! Which bytes of the files a pass uses, for those who want to see it.

use lowtide_residency::TouchedRow;

use crate::bind::Vector;
use crate::engine::Engine;

impl Engine {
    /// From here on the store notes what is used, between two looks for up to `tokens` tokens.
    pub fn record_touches(&self, tokens: usize) {
        // Vectors are read like rows, at their first use.
        self.store.record_touches(tokens.saturating_add(self.vectors().count()));
    }

    fn vectors(&self) -> impl Iterator<Item = &Vector> {
        let layers = self.bound.layers.iter().flat_map(|layer| &layer.vectors);
        layers.chain(&self.bound.rope_factors).chain([&self.bound.output_norm])
    }

    /// Where norms, biases and factors lie: read once and kept, used for every token.
    pub fn vector_ranges(&self) -> impl Iterator<Item = TouchedRow> {
        self.vectors().map(|vector| TouchedRow {
            source: vector.source,
            offset: vector.offset,
            len: vector.bytes as u64,
        })
    }
}

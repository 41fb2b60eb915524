//! The products of a pass of one token as shapes: what it takes to time a model's arithmetic without
//! its weights.

use lowtide_kernels::format::Format;

use crate::bind::{Attention, Bound, Experts, FeedForward, Gated, LatentQuery, Matrix, Slices};
use crate::model_file::Model;

/// One product: `rows` results from `columns` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Of the weights.
    pub format: Format,
    /// Rows of weights.
    pub rows: usize,
    /// Weights of a row.
    pub columns: usize,
}

/// Products that are computed together, from activations of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductGroup {
    /// The products.
    pub products: Vec<Product>,
    /// How often a pass computes such a group.
    pub times: u32,
}

impl ProductGroup {
    /// Bytes of weights that it reads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = |p: &Product| p.format.row_bytes(p.columns).unwrap_or(0) * p.rows;
        self.products.iter().map(|p| bytes(p) as u64).sum()
    }
}

impl Model {
    /// The groups of products of a pass of one token; equal ones are counted.
    #[must_use]
    pub fn pass_shape(&self) -> Vec<ProductGroup> {
        let used = self.config.experts.as_ref().map_or(0, |experts| experts.used as usize);
        let mut shape = Shape::default();
        shape.pass(&self.bound, used);
        shape.groups
    }
}

#[derive(Default)]
struct Shape {
    groups: Vec<ProductGroup>,
}

impl Shape {
    fn pass(&mut self, bound: &Bound, used: usize) {
        for layer in &bound.layers {
            match &layer.attention {
                Attention::Heads(p) => self.add(&[&p.q, &p.k, &p.v]),
                Attention::Latent(p) => {
                    match &p.query {
                        LatentQuery::Direct(q) => self.add(&[q]),
                        LatentQuery::LowRank { low, high, .. } => {
                            self.add(&[low]);
                            self.add(&[high]);
                        }
                    }
                    self.add(&[&p.kept]);
                    self.add(&[&p.key_heads]);
                    self.add(&[&p.value_heads]);
                }
            }
            self.add(&[&layer.attn_out]);
            match &layer.ffn {
                FeedForward::Dense(gated) => self.gated(gated),
                FeedForward::Experts(experts) => self.experts(experts, used),
            }
        }
        self.add(&[&bound.output]);
    }

    fn gated(&mut self, gated: &Gated) {
        self.add(&[&gated.gate, &gated.up]);
        self.add(&[&gated.down]);
    }

    fn experts(&mut self, experts: &Experts, used: usize) {
        self.add(&[&experts.router]);
        if let Some(shared) = &experts.shared {
            self.gated(shared);
        }
        let slice = |s: &Slices| Product { format: s.format, rows: s.rows, columns: s.columns };
        let first = [slice(&experts.gate), slice(&experts.up)];
        self.push(first.into_iter().cycle().take(2 * used).collect());
        self.push(vec![slice(&experts.down); used]);
    }

    fn add(&mut self, matrices: &[&Matrix]) {
        let product = |m: &&Matrix| Product { format: m.format, rows: m.rows, columns: m.columns };
        self.push(matrices.iter().map(product).collect());
    }

    fn push(&mut self, products: Vec<Product>) {
        if let Some(same) = self.groups.iter_mut().find(|group| group.products == products) {
            same.times += 1;
        } else if !products.is_empty() {
            self.groups.push(ProductGroup { products, times: 1 });
        }
    }
}

//! How keys and values lie in memory.
//!
//! A layer's cache is a row of **tiles** of 64 positions. A tile holds, for each key/value head,
//! the head's 64 keys and then its 64 values. Both are stored in **panels** of 16 columns, which is
//! the order in which a matrix product reads its right-hand side, so neither decode nor prefill ever
//! transposes or reduces across lanes:
//!
//! | | panel | columns (16) | rows |
//! |---|---|---|---|
//! | keys, f16 | 16 positions | positions | dimensions: `u16[dim][16]` |
//! | values, f16 | 16 dimensions | dimensions | positions: `u16[64][16]` |
//! | keys, q8_0 | 16 positions | positions | codes `i8[dim][16]`, then scales `u16[dim / 32][16]` |
//! | values, q8_0 | 32 dimensions | dimensions | scales `u16[64]`, then twice codes `i8[64][16]` |
//!
//! f16 are little-endian. A q8_0 number is code times scale (f16), one scale for 32 dimensions of
//! one position, as in the file format of that name: `scale = f16(max |x| / 127)`, 34 bytes for 32
//! numbers. Dimensions are padded to whole panels (values) and to whole scales (q8_0) with zeros.
//!
//! A cache may be a ring: position p lies in tile `(p / 64) mod tiles`.

use crate::shape::ShapeError;
use crate::simd::LANES;

/// Positions of a tile. All boundaries in time (of tiles, of chunks) are counted from position 0.
pub const TILE_POSITIONS: usize = 64;
/// Panels of 16 positions in a tile.
pub(super) const TILE_PANELS: usize = TILE_POSITIONS / LANES;
/// Largest dimension of a head: that of DeepSeek's compressed keys (576), and room.
pub const HEAD_DIM_MAX: usize = 1024;
/// Dimensions that share a scale in q8_0.
pub(super) const SCALE_DIMS: usize = 32;

/// How a cached number is stored.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum KvFormat {
    /// IEEE half precision: 2 bytes.
    #[default]
    F16,
    /// Signed bytes with an f16 scale for each 32: 1.0625 bytes.
    Q8_0,
}

impl KvFormat {
    /// `f16` or `q8_0`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
        }
    }

    /// The format of that [name](KvFormat::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<KvFormat> {
        [KvFormat::F16, KvFormat::Q8_0].into_iter().find(|format| format.name() == name)
    }
}

/// The shape of one layer's cache.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct KvLayout {
    format: KvFormat,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
}

impl KvLayout {
    /// The layout for `kv_heads` heads of `key_dim` and `value_dim` numbers.
    ///
    /// # Errors
    /// [`ShapeError::Range`] if there are no heads (or over 65536), or a dimension is 0 or above
    /// [`HEAD_DIM_MAX`].
    pub fn new(
        format: KvFormat,
        kv_heads: usize,
        key_dim: usize,
        value_dim: usize,
    ) -> Result<KvLayout, ShapeError> {
        ShapeError::range("key/value heads", kv_heads, 1..=65_536)?;
        ShapeError::range("key dimension", key_dim, 1..=HEAD_DIM_MAX)?;
        ShapeError::range("value dimension", value_dim, 1..=HEAD_DIM_MAX)?;
        Ok(KvLayout { format, kv_heads, key_dim, value_dim })
    }

    /// How numbers are stored.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Heads of keys and values.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Numbers of a key of one head.
    #[must_use]
    pub fn key_dim(&self) -> usize {
        self.key_dim
    }

    /// Numbers of a value of one head.
    #[must_use]
    pub fn value_dim(&self) -> usize {
        self.value_dim
    }

    /// Bytes of a layer's cache for `positions` positions (rounded up to whole tiles); `None` if
    /// that is more than memory can be.
    #[must_use]
    pub fn bytes(&self, positions: usize) -> Option<usize> {
        positions.div_ceil(TILE_POSITIONS).checked_mul(self.tile_bytes())
    }

    /// Bytes that one position costs (a tile's, divided; exact).
    #[must_use]
    pub fn position_bytes(&self) -> usize {
        self.tile_bytes() / TILE_POSITIONS
    }

    /// Tiles of a cache of that many bytes.
    ///
    /// # Errors
    /// [`ShapeError::Rows`] if it is not whole tiles, or none.
    pub(super) fn tiles(&self, bytes: usize) -> Result<usize, ShapeError> {
        match ShapeError::rows("KV cache (bytes, tiles)", bytes, self.tile_bytes())? {
            0 => {
                Err(ShapeError::Length { what: "KV cache", needed: self.tile_bytes(), got: bytes })
            }
            tiles => Ok(tiles),
        }
    }

    pub(super) fn tile_bytes(&self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// Bytes of one head in a tile: keys, then values.
    pub(super) fn head_bytes(&self) -> usize {
        self.key_bytes() + self.value_bytes()
    }

    /// Bytes of one head's keys in a tile.
    pub(super) fn key_bytes(&self) -> usize {
        TILE_PANELS * self.key_panel_bytes()
    }

    pub(super) fn key_panel_bytes(&self) -> usize {
        match self.format {
            KvFormat::F16 => self.key_dim * 2 * LANES,
            KvFormat::Q8_0 => self.key_scales() * (SCALE_DIMS + 2) * LANES,
        }
    }

    /// Scales of a key in q8_0.
    pub(super) fn key_scales(&self) -> usize {
        self.key_dim.div_ceil(SCALE_DIMS)
    }

    fn value_bytes(&self) -> usize {
        match self.format {
            KvFormat::F16 => self.value_panels() * 2 * LANES * TILE_POSITIONS,
            KvFormat::Q8_0 => {
                self.value_dim.div_ceil(SCALE_DIMS) * (SCALE_DIMS + 2) * TILE_POSITIONS
            }
        }
    }

    /// Panels of 16 dimensions of a value.
    pub(super) fn value_panels(&self) -> usize {
        self.value_dim.div_ceil(LANES)
    }

    /// The keys and the values of one head in a tile.
    #[inline]
    pub(super) fn head<'a>(
        &self,
        cache: &'a [u8],
        tile: usize,
        head: usize,
    ) -> (&'a [u8], &'a [u8]) {
        let start = tile * self.tile_bytes() + head * self.head_bytes();
        cache[start..start + self.head_bytes()].split_at(self.key_bytes())
    }
}

//! NEON's instructions as safe functions that are inlined wherever they stand.
//!
//! Intrinsics carry `#[target_feature]`, so calling one is unsafe in a function that does not. NEON
//! belongs to the base of every target this module is compiled for, so here it never is.
#![allow(unsafe_code, reason = "intrinsics of the target's base, loads and stores")]

use std::arch::aarch64::*;
use std::arch::asm;

const _: () = assert!(cfg!(target_feature = "neon"), "this target's base has no NEON");
const _: () = assert!(cfg!(target_endian = "little"), "bytes are loaded as they lie in files");

/// Sixteen signed bytes.
pub(crate) type I8 = int8x16_t;
/// Sixteen bytes.
pub(crate) type U8 = uint8x16_t;
/// Four signed words.
pub(crate) type I32 = int32x4_t;
/// Four floats.
pub(crate) type F32 = float32x4_t;

macro_rules! safe {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $intrinsic:expr;)+) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name($($arg: $type),*) -> $result {
                // SAFETY: the target's base has NEON, asserted above.
                unsafe { $intrinsic($($arg),*) }
            }
        )+
    };
}

safe! {
    and(a: U8, b: U8) -> U8 = vandq_u8;
    or(a: U8, b: U8) -> U8 = vorrq_u8;
    /// All bits set where a bit is set in both.
    test(a: U8, b: U8) -> U8 = vtstq_u8;
    bytes(byte: u8) -> U8 = vdupq_n_u8;
    half_bytes(byte: u8) -> uint8x8_t = vdup_n_u8;
    join_bytes(low: uint8x8_t, high: uint8x8_t) -> U8 = vcombine_u8;
    signed_bytes(byte: i8) -> I8 = vdupq_n_s8;
    /// The bytes of four words.
    of_words(a: I32) -> I8 = vreinterpretq_s8_s32;
    unsigned(a: I8) -> U8 = vreinterpretq_u8_s8;
    invert(a: U8) -> U8 = vmvnq_u8;
    differ(a: I8, b: I8) -> I8 = veorq_s8;
    signed(a: U8) -> I8 = vreinterpretq_s8_u8;
    sub_bytes(a: I8, b: I8) -> I8 = vsubq_s8;
    /// Byte `i` of the result is that byte of the table which byte `i` of `index` (below 16) names.
    look_up(table: I8, index: U8) -> I8 = vqtbl1q_s8;

    words(word: i32) -> I32 = vdupq_n_s32;
    add_words(a: I32, b: I32) -> I32 = vaddq_s32;
    mul_words(a: I32, b: I32) -> I32 = vmulq_s32;
    /// `sum + a * b`.
    mul_add_words(sum: I32, a: I32, b: I32) -> I32 = vmlaq_s32;
    /// The sums of neighbours: of `a`, then of `b`.
    add_pairs(a: I32, b: I32) -> I32 = vpaddq_s32;
    even_words(a: I32, b: I32) -> I32 = vuzp1q_s32;
    odd_words(a: I32, b: I32) -> I32 = vuzp2q_s32;
    to_floats(a: I32) -> F32 = vcvtq_f32_s32;
    /// To the nearest, ties to even.
    to_words(a: F32) -> I32 = vcvtnq_s32_f32;

    /// The sum of the lanes.
    sum_words(a: I32) -> i32 = vaddvq_s32;

    floats(x: f32) -> F32 = vdupq_n_f32;
    add(a: F32, b: F32) -> F32 = vaddq_f32;
    sub(a: F32, b: F32) -> F32 = vsubq_f32;
    mul(a: F32, b: F32) -> F32 = vmulq_f32;
    div(a: F32, b: F32) -> F32 = vdivq_f32;
    /// `sum + a * b`, rounded once.
    fma(sum: F32, a: F32, b: F32) -> F32 = vfmaq_f32;
    /// The sum of the lanes, neighbours first.
    sum(a: F32) -> f32 = vaddvq_f32;
    abs(a: F32) -> F32 = vabsq_f32;
    negate(a: F32) -> F32 = vnegq_f32;
    /// All bits set where `a > b`.
    greater(a: F32, b: F32) -> uint32x4_t = vcgtq_f32;
    /// `mask ? a : b`, bit by bit.
    choose(mask: uint32x4_t, a: F32, b: F32) -> F32 = vbslq_f32;
    shorts(bytes: uint8x8_t) -> uint16x4_t = vreinterpret_u16_u8;
    float_bytes(bytes: U8) -> F32 = vreinterpretq_f32_u8;
    wide_halves(from: uint16x4_t) -> uint32x4_t = vshll_n_u16::<16>;
    low_shorts(a: int16x8_t) -> int16x4_t = vget_low_s16;
    wide_low(a: int16x4_t) -> I32 = vmovl_s16;
    wide_high(a: int16x8_t) -> I32 = vmovl_high_s16;
    low_eight(a: I8) -> int8x8_t = vget_low_s8;
    shorts_low(a: int8x8_t) -> int16x8_t = vmovl_s8;
    shorts_high(a: I8) -> int16x8_t = vmovl_high_s8;
    products_low(a: int8x8_t, b: int8x8_t) -> int16x8_t = vmull_s8;
    products_high(sum: int16x8_t, a: I8, b: I8) -> int16x8_t = vmlal_high_s8;
    /// The sums of neighbours, added to the lanes.
    add_shorts(sum: I32, a: int16x8_t) -> I32 = vpadalq_s16;
    low_words(a: I32) -> int16x4_t = vmovn_s32;
    high_words(low: int16x4_t, a: I32) -> int16x8_t = vmovn_high_s32;
    low_bytes(a: int16x8_t) -> int8x8_t = vmovn_s16;
    high_bytes(low: int8x8_t, a: int16x8_t) -> I8 = vmovn_high_s16;
    pairs(a: I8) -> int64x2_t = vreinterpretq_s64_s8;
    of_pairs(a: int64x2_t) -> I8 = vreinterpretq_s8_s64;
    fours(a: I8) -> I32 = vreinterpretq_s32_s8;
    of_fours(a: I32) -> int64x2_t = vreinterpretq_s64_s32;
    even_fours(a: I32, b: I32) -> I32 = vtrn1q_s32;
    odd_fours(a: I32, b: I32) -> I32 = vtrn2q_s32;
    first_pairs(a: int64x2_t, b: int64x2_t) -> int64x2_t = vzip1q_s64;
    last_pairs(a: int64x2_t, b: int64x2_t) -> int64x2_t = vzip2q_s64;
    bits(a: F32) -> uint32x4_t = vreinterpretq_u32_f32;
    from_bits(a: uint32x4_t) -> F32 = vreinterpretq_f32_u32;
    max_bits(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vmaxq_u32;
    /// The largest lane.
    largest(a: uint32x4_t) -> u32 = vmaxvq_u32;
}

/// Eight times one byte, then the other.
#[inline(always)]
pub(crate) fn eight_each(low: u8, high: u8) -> U8 {
    join_bytes(half_bytes(low), half_bytes(high))
}

/// All bits of byte `i` set where bit `i` is, of one byte and then of the other.
#[inline(always)]
pub(crate) fn spread_bits(low: u8, high: u8) -> U8 {
    const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    test(eight_each(low, high), load_bytes(&BITS))
}

/// Minus the byte where all bits of the mask are set, the byte where none is.
#[inline(always)]
pub(crate) fn negate_where(mask: U8, bytes: I8) -> I8 {
    let mask = signed(mask);
    sub_bytes(differ(bytes, mask), mask)
}

/// The bytes of two long words.
#[inline(always)]
pub(crate) fn of_long_words(words: &[i64; 2]) -> I8 {
    of_pairs(load_long_words(words))
}

/// Each byte shifted left.
#[inline(always)]
pub(crate) fn left<const BITS: i32>(a: U8) -> U8 {
    // SAFETY: the target's base has NEON, asserted above.
    unsafe { vshlq_n_u8::<BITS>(a) }
}

/// Each byte shifted right.
#[inline(always)]
pub(crate) fn right<const BITS: i32>(a: U8) -> U8 {
    // SAFETY: as above.
    unsafe { vshrq_n_u8::<BITS>(a) }
}

/// Each byte shifted left by a number that is no constant; to the right if it is negative.
#[inline(always)]
pub(crate) fn shift(a: U8, bits: i8) -> U8 {
    let bits = signed_bytes(bits);
    // SAFETY: as above.
    unsafe { vshlq_u8(a, bits) }
}

/// The bits of each float shifted left.
#[inline(always)]
pub(crate) fn left_words<const BITS: i32>(a: uint32x4_t) -> uint32x4_t {
    // SAFETY: as above.
    unsafe { vshlq_n_u32::<BITS>(a) }
}

macro_rules! loads {
    ($($name:ident($item:ty; $count:literal) -> $result:ty = $intrinsic:ident;)+) => {
        $(
            #[inline(always)]
            pub(crate) fn $name(from: &[$item; $count]) -> $result {
                // SAFETY: the array is 16 readable bytes; NEON as above.
                unsafe { $intrinsic(from.as_ptr()) }
            }
        )+
    };
}

loads! {
    load_bytes(u8; 16) -> U8 = vld1q_u8;
    load_signed(i8; 16) -> I8 = vld1q_s8;
    load_words(i32; 4) -> I32 = vld1q_s32;
    load_long_words(i64; 2) -> int64x2_t = vld1q_s64;
    load(f32; 4) -> F32 = vld1q_f32;
}

#[inline(always)]
pub(crate) fn store(x: F32, to: &mut [f32; 4]) {
    // SAFETY: the array is 16 writable bytes; NEON as above.
    unsafe { vst1q_f32(to.as_mut_ptr(), x) }
}

/// Four numbers of 16 bits.
#[inline(always)]
fn load_halves(from: &[[u8; 2]; 4]) -> uint16x4_t {
    // SAFETY: the array is 8 readable bytes; NEON as above.
    shorts(unsafe { vld1_u8(from.as_flattened().as_ptr()) })
}

/// Four floats from their bytes.
#[inline(always)]
pub(crate) fn singles(from: &[[u8; 4]; 4]) -> F32 {
    // SAFETY: the array is 16 readable bytes; NEON as above.
    float_bytes(unsafe { vld1q_u8(from.as_flattened().as_ptr()) })
}

/// Four halves as floats. The intrinsic has a type that Rust 1.90 keeps unstable, so this is its instruction.
#[inline(always)]
pub(crate) fn halves(from: &[[u8; 2]; 4]) -> F32 {
    let from = load_halves(from);
    let result: F32;
    // SAFETY: the instruction belongs to NEON and touches these registers only.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) result, in(vreg) from,
            options(pure, nomem, nostack, preserves_flags));
    }
    result
}

/// Four floats as halves, to the nearest, ties to even.
#[inline(always)]
pub(crate) fn to_halves(x: F32) -> [u16; 4] {
    let result: uint16x4_t;
    // SAFETY: the instruction belongs to NEON and touches these registers only.
    unsafe {
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) result, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    let mut to = [0; 4];
    // SAFETY: the array is 8 writable bytes; NEON as above.
    unsafe { vst1_u16(to.as_mut_ptr(), result) };
    to
}

/// Four "brain" halves as floats.
#[inline(always)]
pub(crate) fn brains(from: &[[u8; 2]; 4]) -> F32 {
    from_bits(wide_halves(load_halves(from)))
}

/// Sixteen signed bytes as floats.
#[inline(always)]
pub(crate) fn bytes_to_floats(from: &[u8; 16]) -> [F32; 4] {
    let bytes = signed(load_bytes(from));
    let (low, high) = (shorts_low(low_eight(bytes)), shorts_high(bytes));
    let words =
        [wide_low(low_shorts(low)), wide_high(low), wide_low(low_shorts(high)), wide_high(high)];
    four!(|I| to_floats(words[I]))
}

/// The lowest bytes of sixteen words.
#[inline(always)]
pub(crate) fn narrow(words: &[I32; 4]) -> [i8; 16] {
    let low = high_words(low_words(words[0]), words[1]);
    let high = high_words(low_words(words[2]), words[3]);
    let mut to = [0; 16];
    // SAFETY: the array is 16 writable bytes; NEON as above.
    unsafe { vst1q_s8(to.as_mut_ptr(), high_bytes(low_bytes(low), high)) };
    to
}

/// The first eight bytes of `a` and of `b`.
#[inline(always)]
pub(crate) fn first_eights(a: I8, b: I8) -> I8 {
    of_pairs(first_pairs(pairs(a), pairs(b)))
}

/// The last eight bytes of `a` and of `b`.
#[inline(always)]
pub(crate) fn last_eights(a: I8, b: I8) -> I8 {
    of_pairs(last_pairs(pairs(a), pairs(b)))
}

/// Four codes of each of four rows to a vector, from sixteen codes of each row to a vector.
#[inline(always)]
pub(crate) fn transpose(rows: [I8; 4]) -> [I8; 4] {
    let [a, b, c, d] = four!(|R| fours(rows[R]));
    let even = [of_fours(even_fours(a, b)), of_fours(even_fours(c, d))];
    let odd = [of_fours(odd_fours(a, b)), of_fours(odd_fours(c, d))];
    [
        of_pairs(first_pairs(even[0], even[1])),
        of_pairs(first_pairs(odd[0], odd[1])),
        of_pairs(last_pairs(even[0], even[1])),
        of_pairs(last_pairs(odd[0], odd[1])),
    ]
}

/// The four sums of all lanes of each.
#[inline(always)]
pub(crate) fn sums(rows: [I32; 4]) -> I32 {
    add_pairs(add_pairs(rows[0], rows[1]), add_pairs(rows[2], rows[3]))
}

/// Adds the products of sixteen bytes each to the lanes, which products to which is left open.
///
/// Two products of at most 128 * 127 fit into 16 bits.
#[inline(always)]
pub(crate) fn dot_without_dot(sum: I32, a: I8, b: I8) -> I32 {
    add_shorts(sum, products_high(products_low(low_eight(a), low_eight(b)), a, b))
}

/// Adds the products of four bytes each to each lane.
// The intrinsic is unstable (Rust 1.96), so this is its instruction.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn dot(sum: I32, a: I8, b: I8) -> I32 {
    let mut sum = sum;
    // SAFETY: the instruction touches these registers only; the function has the target feature.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Adds the products of each four bytes of `a` with the four bytes `4 QUAD..` of `b` to each lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn dot_quad<const QUAD: usize>(sum: I32, a: I8, b: I8) -> I32 {
    let mut sum = sum;
    // SAFETY: as above.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) sum, in(vreg) a, in(vreg) b,
            const QUAD, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Adds the products of the eight bytes of each of two rows (`a`) with those of each of two columns (`b`):
/// row 0 times columns 0 and 1, row 1 times columns 0 and 1.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(crate) fn matrix(sum: I32, a: I8, b: I8) -> I32 {
    let mut sum = sum;
    // SAFETY: as above.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

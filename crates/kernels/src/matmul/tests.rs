//! Every format, every instruction set, against the scalar reference bit for bit; and the reference
//! against plain arithmetic in double precision.

use super::*;
use crate::format::dequantize;
use crate::half::{f32_to_bf16, f32_to_f16};
use crate::quantize::{Activations, Keep};
use crate::testing::Random;

/// Where the half-precision numbers of a block lie: random bytes there would be NaN or huge, and
/// a sum that is NaN hides every other fault.
fn scale_offsets(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q6_K => &[208],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::TQ1_0 => &[52],
        Format::TQ2_0 => &[64],
        Format::MXFP4 | Format::NVFP4 | Format::IQ1_M => &[],
        Format::IQ4_NL | Format::IQ4_XS | Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S => &[0],
        Format::IQ3_XXS | Format::IQ3_S | Format::IQ1_S | Format::Q1_0 | Format::Q2_0 => &[0],
    }
}

/// Random rows: any code, any integer scale, float scales of ordinary size and both signs.
fn weights(random: &mut Random, format: Format, rows: usize, k: usize) -> Vec<u8> {
    let number = |random: &mut Random| random.normals(1, 1.0)[0];
    match format {
        Format::F32 => (0..rows * k).flat_map(|_| number(random).to_le_bytes()).collect(),
        Format::F16 => {
            (0..rows * k).flat_map(|_| f32_to_f16(number(random)).to_le_bytes()).collect()
        }
        Format::BF16 => {
            (0..rows * k).flat_map(|_| f32_to_bf16(number(random)).to_le_bytes()).collect()
        }
        _ => {
            let len = rows * format.row_bytes(k).unwrap();
            let mut bytes: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
            for block in bytes.chunks_mut(format.block_bytes()) {
                for &at in scale_offsets(format) {
                    let scale = f32_to_f16(number(random) * 0.01);
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                match format {
                    // Powers of two around 1.
                    Format::MXFP4 => block[0] = 125 + block[0] % 5,
                    // The scale's exponent is the top of this byte: 2^-7 to 2^-4, both signs.
                    Format::IQ1_M => block[55] = block[55] & 0xaf | 0x20,
                    _ => {}
                }
            }
            bytes
        }
    }
}

/// Activations of which some are much larger than others, as in real models.
fn activations(random: &mut Random, k: usize, cols: usize) -> Vec<f32> {
    let mut x = random.normals(k * cols, 1.0);
    for _ in 0..x.len() / 50 {
        let at = random.below(x.len());
        x[at] *= 50.0;
    }
    x
}

struct Case {
    format: Format,
    rows: usize,
    k: usize,
    cols: usize,
    weights: Vec<u8>,
    /// The weights begin here, at any alignment.
    offset: usize,
    x: Vec<f32>,
}

impl Case {
    fn random(random: &mut Random, format: Format, rows: usize, k: usize, cols: usize) -> Case {
        let offset = random.below(64);
        let mut bytes = vec![0xa5; offset];
        bytes.extend(weights(random, format, rows, k));
        let x = activations(random, k, cols);
        Case { format, rows, k, cols, weights: bytes, offset, x }
    }

    /// The result, column after column, and proof that nothing beside it was written.
    fn run(&self, compute: &mut Compute) -> Vec<f32> {
        let keep = if self.format.is_float() { Keep::Floats } else { Keep::Codes };
        let mut x = Activations::new(self.k, self.cols, keep);
        x.set(compute, &self.x, self.k, self.cols).unwrap();
        let (row0, stride) = (3, self.rows + 5);
        let untouched = f32::from_bits(0x7fc1_2345);
        let mut out = vec![untouched; stride * self.cols];
        let job = MatmulJob {
            format: self.format,
            weights: &self.weights[self.offset..],
            rows: self.rows,
            k: self.k,
            x: &x,
            out: &mut out,
            out_stride: stride,
            out_row0: row0,
        };
        matmul(compute, &mut [job]).unwrap();
        let mut result = Vec::new();
        for column in out.chunks(stride) {
            let (before, rest) = column.split_at(row0);
            let (rows, after) = rest.split_at(self.rows);
            assert!(before.iter().chain(after).all(|x| x.to_bits() == untouched.to_bits()));
            result.extend(rows);
        }
        result
    }

    #[track_caller]
    fn assert_equal(&self, what: &str, expected: &[f32], got: &[f32]) {
        assert_eq!(expected.len(), got.len());
        for (index, (a, b)) in expected.iter().zip(got).enumerate() {
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            let Case { format, rows, k, cols, .. } = self;
            let (row, col) = (index % rows, index / rows);
            assert!(
                same,
                "{format}, {rows} x {k} x {cols}, {what}: row {row}, column {col} is {b:?}, not {a:?}"
            );
        }
    }
}

fn block_k(format: Format) -> usize {
    format.block_len().max(32)
}

/// Closes each backend: `kernel_suite!(name, |isa| matches ...)` runs every format on every instruction
/// set of this CPU for which the pattern matches.
macro_rules! kernel_suite {
    ($name:ident, $pattern:pat) => {
        mod $name {
            use super::*;

            fn computes(threads: usize) -> Vec<Compute> {
                let all = Isa::available().into_iter().filter(|isa| matches!(isa, $pattern));
                all.map(|isa| Compute::new(isa, threads).unwrap()).collect()
            }

            #[test]
            fn small_shapes_exhaustively() {
                small_shapes(&mut computes(1));
            }

            #[test]
            fn large_shapes_at_random() {
                large_shapes(&mut computes(1));
            }

            #[test]
            fn the_largest_sums_fit() {
                largest_sums(&mut computes(1));
            }

            #[test]
            fn threads_change_nothing() {
                threaded(&mut computes(3));
            }

            #[test]
            fn poison_stays_poison() {
                poisoned(&mut computes(1));
            }
        }
    };
}

kernel_suite!(scalar, Isa::Scalar);
#[cfg(target_arch = "x86_64")]
kernel_suite!(avx2, Isa::Avx2(_));
#[cfg(target_arch = "x86_64")]
kernel_suite!(avxvnni, Isa::AvxVnni(_));
#[cfg(target_arch = "x86_64")]
kernel_suite!(avx512, Isa::Avx512(_));
#[cfg(target_arch = "x86_64")]
kernel_suite!(avx512vbmi, Isa::Avx512Vbmi(_));
#[cfg(target_arch = "aarch64")]
kernel_suite!(neon, Isa::Neon(_));
#[cfg(target_arch = "aarch64")]
kernel_suite!(neon_dot, Isa::NeonDot(_));
#[cfg(target_arch = "aarch64")]
kernel_suite!(neon_i8mm, Isa::NeonI8mm(_));

fn reference() -> Compute {
    Compute::new(Isa::Scalar, 1).unwrap()
}

fn small_shapes(computes: &mut [Compute]) {
    for &format in Format::ALL {
        let mut random = Random::new(1);
        for rows in [1, 2, 3, 7, 8, 9, 15, 16, 17, 33] {
            // All columns at once by the reference, then the first 1, 2, ... of them.
            let k = block_k(format) * if format.is_float() { 1 } else { 1 + random.below(3) };
            let k = k + if format.is_float() { random.below(40) } else { 0 };
            let mut case = Case::random(&mut random, format, rows, k, 17);
            let expected = case.run(&mut reference());
            for cols in (1..=17).rev() {
                case.cols = cols;
                case.x.truncate(cols * k);
                for compute in &mut *computes {
                    let got = case.run(compute);
                    case.assert_equal(compute.isa().name(), &expected[..cols * rows], &got);
                }
            }
        }
    }
}

fn large_shapes(computes: &mut [Compute]) {
    for &format in Format::ALL {
        let mut random = Random::new(2);
        // Longer than one tile, and no multiple of it.
        for (rows, k, cols) in [
            (37, 2304, 5),
            (24, 1280, 64),
            (57, 4352, 49),
            (5, 4096, 1),
            (40, 4096, 1),
            (130, 768, 3),
            (9, 256, 512),
        ] {
            let case = Case::random(&mut random, format, rows, k, cols);
            let expected = case.run(&mut reference());
            for compute in &mut *computes {
                case.assert_equal(compute.isa().name(), &expected, &case.run(compute));
            }
        }
    }
}

/// Rows of the largest weights a format has, and activations as large as their scale allows, all products of a
/// row with one sign: whatever is added in few bits must not overflow.
fn largest_sums(computes: &mut [Compute]) {
    for &format in Format::ALL {
        let (rows, k) = (16, 512);
        let heaviest = |byte: &u8| {
            let size: f32 = filled(format, *byte, 1, k).1.iter().map(|w| w.abs()).sum();
            (size * 1e6) as u64
        };
        let heaviest = (0..=255).max_by_key(heaviest).unwrap();
        // The largest codes, too: some are added before their offset is taken away.
        for byte in [heaviest, 0, 0x7f, 0xff] {
            let (weights, values) = filled(format, byte, rows, k);
            let sign = |w: &f32| if *w < 0.0 { -1.0 } else { 1.0 };
            let along = values[..k].iter().map(sign);
            let x = along.clone().chain(along.map(|x: f32| -x)).chain((0..2 * k).map(|i| {
                // All of one sign.
                if i < k { 1.0 } else { -1.0 }
            }));
            let case = Case { format, rows, k, cols: 4, weights, offset: 0, x: x.collect() };
            together_and_alone(computes, case);
        }
    }
}

/// Runs all columns together and each alone: one has a way of its own.
fn together_and_alone(computes: &mut [Compute], mut case: Case) {
    let x = std::mem::take(&mut case.x);
    for columns in std::iter::once(&x[..]).chain(x.chunks_exact(case.k)) {
        case.cols = columns.len() / case.k;
        case.x = columns.to_vec();
        let expected = case.run(&mut reference());
        for compute in &mut *computes {
            case.assert_equal(compute.isa().name(), &expected, &case.run(compute));
        }
    }
}

/// Rows whose bytes are `byte` but for scales of 1, and their values.
fn filled(format: Format, byte: u8, rows: usize, k: usize) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![byte; rows * format.row_bytes(k).unwrap()];
    for block in bytes.chunks_mut(format.block_bytes()) {
        for &at in scale_offsets(format) {
            block[at..at + 2].copy_from_slice(&f32_to_f16(1.0).to_le_bytes());
        }
        match format {
            Format::MXFP4 => block[0] = 127,
            Format::IQ1_M => block[55] = block[55] & 0xaf | 0x20,
            _ => {}
        }
    }
    let mut values = vec![0.0; rows * k];
    dequantize(format, &bytes, &mut values).unwrap();
    values.iter_mut().filter(|w| !w.is_finite()).for_each(|w| *w = 0.0);
    (bytes, values)
}

fn threaded(computes: &mut [Compute]) {
    let mut random = Random::new(3);
    for format in [Format::Q4_1, Format::Q6_K, Format::F16] {
        for (rows, cols) in [(700, 1), (333, 70)] {
            let case = Case::random(&mut random, format, rows, 512, cols);
            for compute in &mut *computes {
                let mut one = Compute::new(compute.isa(), 1).unwrap();
                case.assert_equal("threads", &case.run(&mut one), &case.run(compute));
            }
        }
    }
}

/// Infinite and NaN scales, and activations, give what IEEE arithmetic gives, in every lane alike.
fn poisoned(computes: &mut [Compute]) {
    for &format in Format::ALL {
        let mut random = Random::new(4);
        let mut case = Case::random(&mut random, format, 11, 512, 5);
        let block = format.block_bytes();
        for (row, poison) in [(2, 0x7c00u16), (5, 0xfc00), (9, 0x7e00)] {
            let at = case.offset + row * format.row_bytes(512).unwrap() + block;
            for &field in scale_offsets(format) {
                case.weights[at + field..at + field + 2].copy_from_slice(&poison.to_le_bytes());
            }
        }
        case.x[512 + 300] = f32::NAN;
        case.x[3 * 512 + 10] = f32::INFINITY;
        let expected = case.run(&mut reference());
        assert!(expected[11..22].iter().all(|x| x.is_nan()), "{format}: a NaN activation vanished");
        together_and_alone(computes, case);
    }
}

/// The reference means what the formats mean: against the dequantised weights in double precision.
/// Activations on a grid that quantises exactly leave only the rounding of the sums.
#[test]
fn reference_agrees_with_dequantised_weights() {
    for &format in Format::ALL {
        let mut random = Random::new(5);
        let (rows, k, cols) = (9, 768, 3);
        let mut case = Case::random(&mut random, format, rows, k, cols);
        for x in case.x.as_chunks_mut::<32>().0 {
            *x = std::array::from_fn(|_| (random.below(255) as f32 - 127.0) / 64.0);
            x[random.below(32)] = 127.0 / 64.0;
        }
        let got = case.run(&mut reference());
        let mut w = vec![0.0; rows * k];
        dequantize(format, &case.weights[case.offset..], &mut w).unwrap();
        for col in 0..cols {
            for row in 0..rows {
                let terms = w[row * k..][..k].iter().zip(&case.x[col * k..][..k]);
                let products = terms.map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (sum, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
                let error = (f64::from(got[col * rows + row]) - sum).abs();
                assert!(error <= 1e-6 * size, "{format}: row {row}, column {col}: off by {error}");
            }
        }
    }
}

#[test]
fn jobs_of_one_call_do_not_disturb_each_other() {
    let mut random = Random::new(6);
    let shapes = [(Format::Q4_1, 192), (Format::Q8_0, 40), (Format::Q5_0, 1), (Format::Q4_0, 0)];
    let cases: Vec<Case> =
        shapes.iter().map(|&(f, rows)| Case::random(&mut random, f, rows, 576, 2)).collect();
    let mut compute = Compute::new(Isa::detect(), 2).unwrap();
    let mut x = Activations::new(576, 2, Keep::Codes);
    x.set(&compute, &cases[0].x, 576, 2).unwrap();
    let mut outs: Vec<Vec<f32>> = cases.iter().map(|case| vec![0.0; case.rows * 2]).collect();
    let mut jobs: Vec<MatmulJob<'_>> = cases
        .iter()
        .zip(&mut outs)
        .map(|(case, out)| MatmulJob {
            format: case.format,
            weights: &case.weights[case.offset..],
            rows: case.rows,
            k: 576,
            x: &x,
            out,
            out_stride: case.rows,
            out_row0: 0,
        })
        .collect();
    matmul(&mut compute, &mut jobs).unwrap();
    for (mut case, out) in cases.into_iter().zip(outs) {
        case.x = activations(&mut Random::new(0), 0, 0);
        let expected = {
            let mut alone = vec![0.0; out.len()];
            let job = MatmulJob {
                format: case.format,
                weights: &case.weights[case.offset..],
                rows: case.rows,
                k: 576,
                x: &x,
                out: &mut alone,
                out_stride: case.rows,
                out_row0: 0,
            };
            matmul(&mut reference(), &mut [job]).unwrap();
            alone
        };
        case.assert_equal("in a group", &expected, &out);
    }
}

#[test]
fn wrong_numbers_are_errors_and_nothing_is_written() {
    let mut compute = reference();
    let mut x = Activations::new(64, 2, Keep::Codes);
    x.set(&compute, &[1.0; 128], 64, 2).unwrap();
    let weights = [0u8; 3 * 40];
    let mut check = |format, rows, k, stride, row0, len| {
        let mut out = vec![7.0; len];
        let weights = &weights[..];
        let (out_stride, out_row0) = (stride, row0);
        let x = &x;
        let job = MatmulJob { format, weights, rows, k, x, out: &mut out, out_stride, out_row0 };
        let result = matmul(&mut compute, &mut [job]);
        assert!(result.is_ok() || out.iter().all(|&x| x == 7.0));
        result
    };
    let q = Format::Q4_1;
    assert_eq!(check(q, 3, 64, 3, 0, 6), Ok(()));
    assert!(matches!(check(q, 3, 32, 3, 0, 6), Err(MatmulError::InnerLength { .. })));
    assert!(matches!(check(q, 2, 64, 3, 0, 6), Err(MatmulError::WeightLength { .. })));
    assert!(matches!(check(q, usize::MAX, 64, 3, 0, 6), Err(MatmulError::WeightLength { .. })));
    assert!(matches!(check(Format::F16, 3, 64, 3, 0, 6), Err(MatmulError::WeightLength { .. })));
    assert!(matches!(check(q, 3, 64, 3, 0, 5), Err(MatmulError::OutLength { .. })));
    assert!(matches!(check(q, 3, 64, 2, 0, 6), Err(MatmulError::OutLength { .. })));
    assert!(matches!(check(q, 3, 64, usize::MAX, 0, 6), Err(MatmulError::OutLength { .. })));
    assert!(matches!(check(q, 3, 64, 3, usize::MAX, 6), Err(MatmulError::OutLength { .. })));
}

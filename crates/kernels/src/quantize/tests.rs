use super::*;

fn compute(isa: Isa, threads: usize) -> Compute {
    Compute::new(isa, threads).unwrap()
}

/// Blocks of all kinds: ordinary, tiny, huge, constant, halves that round to even, poisoned.
fn samples() -> Vec<[f32; BLOCK]> {
    let mut state = 1u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let mut all: Vec<[f32; BLOCK]> = vec![[0.0; BLOCK], [-0.0; BLOCK], [1.0; BLOCK]];
    // With amax = 127 the inverse is 1: these are exact halves.
    let mut halves: [f32; BLOCK] = std::array::from_fn(|i| i as f32 - 15.5);
    halves[0] = 127.0;
    all.push(halves);
    for scale in [1e-45, 1e-38, 1.4e-36, 1.6e-36, 1e-20, 1.0, 3e5, 1e38, 3e38] {
        for _ in 0..20 {
            all.push(std::array::from_fn(|_| random() * scale));
        }
    }
    for poison in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 7, 8, 31] {
            let mut block: [f32; BLOCK] = std::array::from_fn(|_| random());
            block[at] = poison;
            all.push(block);
        }
    }
    all
}

fn bits(block: &XBlock) -> ([i32; 8], u32, u32, i32, [i32; 4]) {
    let bits = |x: f32| {
        if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
    };
    (block.quads, bits(block.d), bits(block.s), block.sums, block.starts)
}

#[test]
fn scalar_follows_the_definition() {
    for x in samples() {
        let block = quantize_block(&x);
        let codes = block.codes();
        if x.iter().any(|x| !x.is_finite()) {
            assert!(block.d.is_nan() && block.s.is_nan() && codes == [0; BLOCK]);
            continue;
        }
        let amax = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        if amax < 2f32.powi(-119) {
            assert_eq!(block, XBlock { d: 0.0, ..XBlock::default() });
            continue;
        }
        let largest = codes.iter().map(|c| c.unsigned_abs()).max().unwrap();
        assert!([127, 126, 124, 121].contains(&largest) && !codes.contains(&-128), "{largest}");
        let step = f64::from(amax) / f64::from(largest);
        for (x, code) in x.iter().zip(codes) {
            let error = (f64::from(*x) - step * f64::from(code)).abs();
            assert!(error <= 0.5001 * step, "{x} became {code} * {step}");
        }
        // No scale near the chosen one leaves less, as far as floats can tell it apart.
        let left = |d: f64| -> f64 {
            x.iter().zip(codes).map(|(x, code)| (f64::from(*x) - d * f64::from(code)).powi(2)).sum()
        };
        let d = f64::from(block.d);
        let spacing = f64::from(f32::MIN_POSITIVE * f32::EPSILON).max(d * 1e-6);
        let near = [step, d + spacing, d - spacing].map(left).into_iter().fold(f64::MAX, f64::min);
        assert!(left(d) <= near + 1e-9 * f64::from(amax).powi(2), "{d} is not the best scale");
        assert!((d / step - 1.0).abs() < 0.011 || amax < 1e-30, "{d} is far from {step}");
        // Nor do the codes of another ratio, each with its own step.
        let left_by = |largest: u8| -> f64 {
            let step = f64::from(amax) / f64::from(largest);
            let left = |x: &f32| f64::from(*x) - step * (f64::from(*x) / step).round_ties_even();
            x.iter().map(|x| left(x).powi(2)).sum()
        };
        let best = [127, 126, 124, 121].map(left_by).into_iter().fold(f64::MAX, f64::min);
        assert!(left_by(largest) <= best + 0.001 * step.powi(2), "{largest} is not the best");
        let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>();
        assert_eq!(i32::from(block.sums as i16), sum(&codes[..16]));
        assert_eq!(block.sums >> 16, sum(&codes[16..]));
        for (start, codes) in block.starts.into_iter().zip(codes.as_chunks::<8>().0) {
            let [a, b, c, d, e, f, g, h] = codes.map(i16::from);
            assert_eq!(start as i16, (a + b + e + f) * -START);
            assert_eq!((start >> 16) as i16, (c + d + g + h) * -START);
        }
    }
}

#[test]
fn every_isa_gives_the_scalar_bits() {
    let samples = samples();
    let expected: Vec<_> = samples.iter().map(|x| bits(&quantize_block(x))).collect();
    for isa in Isa::available() {
        let mut blocks = vec![XBlock::default(); samples.len()];
        quantize(isa, samples.as_flattened(), &mut blocks);
        assert_eq!(blocks.iter().map(bits).collect::<Vec<_>>(), expected, "{}", isa.name());
    }
}

#[test]
fn threads_and_gathering_change_nothing() {
    let samples = samples();
    let (k, cols) = (64, samples.len() / 2);
    let x = &samples.as_flattened()[..k * cols];
    let mut one = Activations::new(k, cols, Keep::Both);
    one.set(&compute(Isa::detect(), 1), x, k, cols).unwrap();
    let mut three = Activations::new(k * cols, 1, Keep::Both);
    three.set(&compute(Isa::detect(), 3), x, k, cols).unwrap();
    let columns: Vec<u32> = (0..cols as u32).rev().collect();
    let mut reversed = Activations::new(k, cols, Keep::Codes);
    reversed.gather(&three, &columns).unwrap();
    for col in 0..cols {
        let expected: Vec<_> = one.column(col).iter().map(bits).collect();
        assert_eq!(three.column(col).iter().map(bits).collect::<Vec<_>>(), expected);
        let column = reversed.column(cols - 1 - col);
        assert_eq!(column.iter().map(bits).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn shapes_are_checked() {
    let compute = compute(Isa::Scalar, 1);
    let mut a = Activations::new(32, 2, Keep::Both);
    let x = [1.0; 96];
    assert!(matches!(a.set(&compute, &x, 32, 3), Err(MatmulError::ActivationRoom { .. })));
    assert!(matches!(a.set(&compute, &x, 32, 2), Err(MatmulError::ActivationLength { .. })));
    a.set(&compute, &x[..40], 20, 2).unwrap();
    assert_eq!(a.float_column(1)[..20], x[..20]);
    assert_eq!(a.float_column(1)[20..], [0.0; 12]);
    let mut b = Activations::new(32, 2, Keep::Codes);
    assert!(matches!(b.gather(&a, &[2]), Err(MatmulError::ActivationColumn { .. })));
    let mut c = Activations::new(32, 2, Keep::Floats);
    assert!(matches!(c.gather(&b, &[]), Err(MatmulError::ActivationKeep { .. })));
}

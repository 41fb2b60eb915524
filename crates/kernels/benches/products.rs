//! Speed of matrix products per format and instruction set, asserted against the scalar reference.
//!
//! `cargo bench -p lowtide-kernels --bench products -- [threads] [format]`
//!
//! - `ram`: one column, weights larger than the caches, GB of weights a second;
//! - `two`, `four`: as many columns, the same weights: texts that go together, or drafts that are checked;
//! - `cache`: one column, weights that stay in the cache: what the kernel could do if memory let it;
//! - `prefill`: 128 columns, 10^9 multiply-adds a second.
//!
//! Figures are the best of several runs: what is asked is what the code can do, not how busy the
//! machine is.

use std::time::{Duration, Instant};

use lowtide_kernels::compute::Compute;
use lowtide_kernels::format::Format;
use lowtide_kernels::isa::Isa;
use lowtide_kernels::matmul::{MatmulJob, matmul};
use lowtide_kernels::quantize::{Activations, Keep};

fn main() {
    // `cargo bench` passes `--bench`.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(1);
    let only = arguments.iter().find(|a| a.parse::<usize>().is_err());
    println!("{threads} threads; GB/s, and prefill in 10^9 multiply-adds/s");
    println!(
        "{:8} {:10} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "format", "isa", "ram", "two", "four", "cache", "prefill"
    );
    for &format in Format::ALL {
        if only.is_some_and(|name| name != format.name()) {
            continue;
        }
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
            let mut compute = Compute::new(isa, threads).expect("threads start");
            let mut gigabytes = |rows, k, cols| {
                let mut case = Case::new(format, rows, k, cols);
                let bytes = case.weights.len() as f64;
                bytes / case.best(&mut compute).as_secs_f64() / 1e9
            };
            let large = (96 << 20) / format.row_bytes(2048).expect("whole blocks");
            let [ram, two, four] = [1, 2, 4].map(|cols| gigabytes(large, 2048, cols));
            let cache = gigabytes(192, 1536, 1);
            let (rows, k, cols) = (576, 1536, 128);
            let mut case = Case::new(format, rows, k, cols);
            let macs = (rows * k * cols) as f64;
            let prefill = macs / case.best(&mut compute).as_secs_f64() / 1e9;
            case.check(&mut compute);
            println!(
                "{format:8} {:10} {ram:8.1} {two:8.1} {four:8.1} {cache:8.1} {prefill:8.1}",
                isa.name()
            );
        }
    }
}

struct Case {
    format: Format,
    rows: usize,
    k: usize,
    weights: Vec<u8>,
    x: Activations,
    out: Vec<f32>,
}

impl Case {
    fn new(format: Format, rows: usize, k: usize, cols: usize) -> Case {
        let mut state = 1u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        // Bytes below 56 make every 16-bit scale a number of ordinary size.
        let bytes = rows * format.row_bytes(k).expect("whole blocks");
        let mut weights: Vec<u8> = (0..bytes).map(|_| (random() % 56) as u8).collect();
        if format == Format::MXFP4 {
            // Its scale is a power of two in the first of 17 bytes; most of those below 56 would be so small
            // that products are subnormal, which costs more than they do.
            weights.iter_mut().step_by(17).for_each(|scale| *scale |= 96);
        }
        let values: Vec<f32> = (0..k * cols).map(|_| random() as f32 / 8e6 - 1.0).collect();
        let mut x = Activations::new(k, cols, Keep::Both);
        let compute = Compute::new(Isa::Scalar, 1).expect("no thread to start");
        x.set(&compute, &values, k, cols).expect("the shape it was made for");
        Case { format, rows, k, weights, x, out: vec![0.0; rows * cols] }
    }

    fn run(&mut self, compute: &mut Compute) {
        let job = MatmulJob {
            format: self.format,
            weights: &self.weights,
            rows: self.rows,
            k: self.k,
            x: &self.x,
            out: &mut self.out,
            out_stride: self.rows,
            out_row0: 0,
        };
        matmul(compute, &mut [job]).expect("consistent shapes");
    }

    /// The shortest of the runs that fit into half a second, and at least five.
    fn best(&mut self, compute: &mut Compute) -> Duration {
        self.run(compute);
        let start = Instant::now();
        let (mut best, mut runs) = (Duration::MAX, 0);
        while runs < 5 || start.elapsed() < Duration::from_millis(300) {
            let start = Instant::now();
            self.run(compute);
            best = best.min(start.elapsed());
            runs += 1;
        }
        best
    }

    fn check(&mut self, compute: &mut Compute) {
        self.run(compute);
        let got = self.out.clone();
        self.run(&mut Compute::new(Isa::Scalar, 1).expect("no thread to start"));
        let same = got.iter().zip(&self.out).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{}: not the reference's bits", self.format);
        assert!(got.iter().all(|x| x.is_finite()) && got.iter().any(|&x| x != 0.0));
    }
}

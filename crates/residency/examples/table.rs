//! The table of docs/residency.md: seconds a token for machines we do not have, by the simulator.
//!
//! `cargo run --release -p lowtide-residency --example table [-- MEMORY_GB_PER_S]`
//!
//! Weights of 4.5 bits (Q4_0), the budget is what is left for weights, memory bandwidth bounds the
//! compute (default 40 GB/s, a desktop with two channels).

use lowtide_residency::sim::{FakeCompute, FakeDisk, SHAPES, table_row};

const GB: u64 = 1_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory: f64 = std::env::args().nth(1).as_deref().unwrap_or("40").parse()?;
    let compute = FakeCompute { bytes_per_s: memory * 1e9, pass_s: 0.002, tile_s: 3e-6 };
    let disks = [1.0, 2.0, 3.5, 7.0, 14.0];
    println!("Seconds a token (share of the bound reached, %), compute at {memory} GB/s");
    print!("| shape | weights GB | budget GB |");
    for d in disks {
        print!(" {d} GB/s |");
    }
    println!("\n|---|---|---|{}", "---|".repeat(disks.len()));
    for shape in SHAPES {
        for budget in [4, 8, 16, 32, 64] {
            let mut cells = String::new();
            let mut bytes = 0;
            for gbps in disks {
                let disk = FakeDisk::new(gbps * 1e9, 100e-6, 16);
                let cell = match table_row(&shape, budget * GB, disk, compute)? {
                    None => " below the floor |".to_owned(),
                    Some(row) => {
                        bytes = row.pass_bytes;
                        format!(" {:.3} ({:.0}) |", row.pass_s, 100.0 * row.achieved)
                    }
                };
                cells.push_str(&cell);
            }
            println!("| {} | {:.1} | {budget} |{cells}", shape.name, bytes as f64 / 1e9);
            if bytes < budget * GB * 9 / 10 {
                break;
            }
        }
    }
    Ok(())
}

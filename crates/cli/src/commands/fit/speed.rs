//! From what was planned and what was measured to tokens per second. Arithmetic only.

use lowtide_engine::{ExpertReads, Forecast, Traffic};
use serde::Serialize;

use super::machine::{Disk, Machine};

/// What attention, norms and sampling add to the products at most.
const BESIDE_PRODUCTS: f64 = 1.25;

/// Tokens per second.
#[derive(Serialize, Debug, Clone, Copy, PartialEq)]
pub struct Speeds {
    /// Of an answer, at least and at most.
    pub decode_tok_s: [f64; 2],
    /// What to expect.
    pub decode_expected_tok_s: f64,
    /// Of a prompt, at least and at most.
    pub prefill_tok_s: [f64; 2],
}

/// A pass as the disk and the processor share it.
#[derive(Debug, Clone, Copy)]
struct Shared {
    read_bytes: f64,
    /// Seconds that the products take by themselves, and while the disk delivers.
    pass_s: f64,
    busy_pass_s: f64,
    /// Bytes per second by itself, and while products are computed.
    disk: f64,
    busy_disk: f64,
}

impl Shared {
    /// The ring keeps both at work; when one has done its part, the other has the machine to itself.
    fn seconds(self) -> f64 {
        let together_s = self.busy_pass_s.min(self.read_bytes / self.busy_disk);
        let left_bytes = self.read_bytes - together_s * self.busy_disk;
        let left_pass = 1.0 - together_s / self.busy_pass_s.max(1e-12);
        together_s + (left_bytes / self.disk).max(0.0) + (left_pass * self.pass_s).max(0.0)
    }
}

/// Which of the measurements a prediction is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Worst,
    Expected,
    Best,
}

impl Case {
    fn traffic(self) -> Traffic {
        match self {
            Case::Worst => Traffic::Even,
            Case::Expected => Traffic::Mild,
            Case::Best => Traffic::Skewed,
        }
    }
}

impl Machine {
    /// The speeds of a run that follows the plan.
    pub fn speeds(&self, forecast: &Forecast, parameters: u64) -> Speeds {
        let rate = |case| 1.0 / self.decode_s(forecast, case).max(1e-9);
        Speeds {
            decode_tok_s: [rate(Case::Worst), rate(Case::Best)],
            decode_expected_tok_s: rate(Case::Expected),
            prefill_tok_s: [
                self.prefill(forecast, parameters, Case::Worst),
                self.prefill(forecast, parameters, Case::Best),
            ],
        }
    }

    /// The part of a token's experts that the speeds take to be in the cache: at least, expected, at most. `None` where
    /// they do not depend on it.
    pub fn expert_hits(&self, forecast: &Forecast) -> Option<[f64; 3]> {
        let hits = |experts: ExpertReads| {
            [Case::Worst, Case::Expected, Case::Best].map(|case| experts.hits(case.traffic()))
        };
        self.experts_waited_for(forecast).map(hits)
    }

    /// The experts, where it was measured how missing ones come in.
    fn experts_waited_for(&self, forecast: &Forecast) -> Option<ExpertReads> {
        let burst = self.disk.as_ref().and_then(|disk| disk.burst);
        forecast.experts.filter(|_| burst.is_some())
    }

    /// Seconds of a token of an answer.
    fn decode_s(&self, forecast: &Forecast, case: Case) -> f64 {
        let pass_s = match case {
            Case::Worst => {
                let cache = forecast.budget.fixed.kv_bytes as f64;
                self.pass.slow_s * BESIDE_PRODUCTS + cache / self.memory.low
            }
            Case::Expected => self.pass.typical_s,
            Case::Best => self.pass.fast_s,
        };
        // What is resident may come from the page cache: the row of the embedding costs nothing.
        let Some(disk) = self.disk.as_ref().filter(|_| !forecast.all_resident) else {
            return pass_s;
        };
        let busy_pass_s = pass_s * (disk.pass_s / self.pass.typical_s.max(1e-12)).max(1.0);
        match self.experts_waited_for(forecast) {
            Some(experts) => {
                let missed = experts.missed_bytes(Traffic::Mild);
                let streamed = (forecast.read_bytes as f64 - missed).max(0.0);
                self.shared(disk, streamed, (pass_s, busy_pass_s), case).seconds()
                    + experts_wait_s(disk, &experts, pass_s, case)
            }
            None => {
                let read = forecast.read_bytes as f64;
                self.shared(disk, read, (pass_s, busy_pass_s), case).seconds()
            }
        }
    }

    fn shared(
        &self,
        disk: &Disk,
        read_bytes: f64,
        (pass_s, busy_pass_s): (f64, f64),
        case: Case,
    ) -> Shared {
        let slowed = (disk.busy / disk.again).min(1.0);
        let rate = match case {
            Case::Worst => disk.first.min(disk.again),
            Case::Expected => disk.again,
            Case::Best => disk.first.max(disk.again),
        };
        let busy_disk = if case == Case::Best { rate } else { rate * slowed };
        let busy_pass_s = if case == Case::Best { pass_s } else { busy_pass_s };
        Shared { read_bytes, pass_s, busy_pass_s, disk: rate, busy_disk }
    }

    /// Tokens per second of a prompt as long as a batch.
    fn prefill(&self, forecast: &Forecast, parameters: u64, case: Case) -> f64 {
        let batch = forecast.batch as f64;
        let weights = parameters as f64 * batch;
        let read = if forecast.all_resident { 0.0 } else { forecast.read_bytes as f64 };
        let seconds = match (&self.disk, case) {
            (Some(disk), Case::Worst) => {
                read / disk.first.min(disk.busy) + weights / self.prompt.low * BESIDE_PRODUCTS
            }
            (Some(disk), _) => (read / disk.first.max(disk.again)).max(weights / self.prompt.high),
            (None, Case::Worst) => weights / self.prompt.low * BESIDE_PRODUCTS,
            (None, _) => weights / self.prompt.high,
        };
        batch / seconds.max(1e-9)
    }
}

/// What a token waits for experts that are missing: those that are there are computed meanwhile.
fn experts_wait_s(disk: &Disk, reads: &ExpertReads, pass_s: f64, case: Case) -> f64 {
    let Some(burst) = disk.burst else { return 0.0 };
    let layers = f64::from(reads.layers.max(1));
    let burst_s = match case {
        Case::Worst => burst.first_s.max(burst.again_s),
        Case::Expected => burst.again_s,
        Case::Best => burst.first_s.min(burst.again_s),
    };
    let missed = reads.missed(case.traffic());
    let of_layer = burst_s * missed / burst.experts;
    let meanwhile = pass_s / layers * (1.0 - missed / f64::from(reads.used.max(1)));
    let wait = if case == Case::Worst { of_layer } else { (of_layer - meanwhile).max(0.0) };
    wait * layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_done_first_leaves_the_machine_to_the_other() {
        let shared =
            Shared { read_bytes: 10e9, pass_s: 1.0, busy_pass_s: 2.0, disk: 2e9, busy_disk: 1e9 };
        // Two seconds together bring 2 GB, the other 8 GB come at 2 GB/s.
        assert!((shared.seconds() - 6.0).abs() < 1e-9);
        // All of 1 GB comes in a second, in which half of the pass is done; the rest takes half of one.
        assert!((Shared { read_bytes: 1e9, ..shared }.seconds() - 1.5).abs() < 1e-9);
        assert!((Shared { read_bytes: 0.0, ..shared }.seconds() - 1.0).abs() < 1e-9);
    }
}

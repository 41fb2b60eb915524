//! Guesses of experts, judged by what became of their like.

/// Whether guesses pay, by how likely the guesser held them: its first, its second and so on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guesses([Rank; RANKS]);

/// As many as tokens of known models use of a layer; those beyond count as the last.
const RANKS: usize = 16;

/// What became of guesses of one rank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rank {
    /// Those that were read; one that was withdrawn before has cost nothing.
    read: u32,
    right: u32,
    asked: u32,
}

impl Guesses {
    /// What is known of guesses of this rank, 0 the likeliest.
    pub fn rank(&mut self, rank: u8) -> &mut Rank {
        &mut self.0[usize::from(rank).min(RANKS - 1)]
    }
}

impl Rank {
    /// Guesses that are remembered.
    const MEMORY: u32 = 128;
    /// While they do not pay, every so-manyth is tried all the same, to see when they do.
    const TRY: u32 = 16;

    /// At least two of five have to be right. A guess takes time of the disk that nobody else has asked for, but one that is
    /// still being read when the layer asks for others delays those (docs/residency.md has what was measured).
    pub fn pays(&mut self) -> bool {
        self.asked = self.asked.wrapping_add(1);
        self.read < 8 || self.right * 5 >= self.read * 2 || self.asked.is_multiple_of(Self::TRY)
    }

    /// One turned out right.
    pub fn right(&mut self) {
        self.right += 1;
    }

    /// One has been read.
    pub fn read(&mut self) {
        self.read += 1;
        if self.read >= Self::MEMORY {
            self.read /= 2;
            self.right /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_judged_each_by_itself_and_tried_again() {
        let mut guesses = Guesses::default();
        for _ in 0..100 {
            for rank in [0, 200] {
                guesses.rank(rank).read();
            }
            guesses.rank(0).right();
        }
        let pays = |guesses: &mut Guesses, rank| -> usize {
            (0..160).filter(|_| guesses.rank(rank).pays()).count()
        };
        assert_eq!(pays(&mut guesses, 0), 160);
        // All beyond the last rank count as it; one of 16 is tried.
        assert_eq!(pays(&mut guesses, u8::MAX), 10);
        // Nothing is known of this one.
        assert_eq!(pays(&mut guesses, 1), 160);
        // Right again: what is remembered is the last 128 or fewer.
        for _ in 0..128 {
            guesses.rank(200).read();
            guesses.rank(200).right();
        }
        assert_eq!(pays(&mut guesses, 200), 160);
    }
}

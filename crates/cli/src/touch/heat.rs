//! Time by file: a row for each token, or for several where there are many.

/// Columns of the picture.
pub const COLUMNS: usize = 980;
/// More rows than this are joined in pairs.
pub const ROWS_MAX: usize = 256;
/// All rows, and those they are joined into.
pub const BYTES_MAX: u64 = (2 * ROWS_MAX * (COLUMNS * size_of::<f32>() + size_of::<Row>())) as u64;

/// A row: the mean over some tokens in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The first of the tokens.
    pub token: usize,
    /// Seconds from the beginning until the last of them was done.
    pub seconds: f64,
    /// Share of each column's bytes that was used.
    pub shares: Vec<f32>,
    tokens: usize,
}

/// All rows.
#[derive(Debug, Clone, Default)]
pub struct Heat {
    /// From first to last.
    pub rows: Vec<Row>,
    /// Tokens a row stands for.
    each: usize,
    count: usize,
}

impl Heat {
    /// Adds a token.
    pub fn push(&mut self, seconds: f64, shares: Vec<f32>) {
        let each = self.each.max(1);
        let token = self.count;
        self.count += 1;
        match self.rows.last_mut() {
            Some(row) if row.tokens < each => row.join(&Row { token, seconds, shares, tokens: 1 }),
            _ => self.rows.push(Row { token, seconds, shares, tokens: 1 }),
        }
        if self.rows.len() > ROWS_MAX {
            self.each = each * 2;
            let rows = std::mem::take(&mut self.rows);
            for pair in rows.chunks(2) {
                let mut row = pair[0].clone();
                pair[1..].iter().for_each(|other| row.join(other));
                self.rows.push(row);
            }
        }
    }
}

impl Row {
    fn join(&mut self, other: &Row) {
        let (a, b) = (self.tokens as f32, other.tokens as f32);
        for (share, other) in self.shares.iter_mut().zip(&other.shares) {
            *share = (*share * a + other * b) / (a + b);
        }
        self.tokens += other.tokens;
        self.seconds = other.seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_are_joined_without_changing_the_mean() {
        let mut heat = Heat::default();
        for token in 0..1000 {
            heat.push(token as f64, vec![token as f32, 1.0]);
        }
        assert!(heat.rows.len() <= ROWS_MAX && heat.each == 4, "{}", heat.rows.len());
        assert_eq!(heat.rows.iter().map(|row| row.tokens).sum::<usize>(), 1000);
        assert_eq!((heat.rows[0].token, heat.rows[1].token), (0, 4));
        assert_eq!(heat.rows[0].shares, [1.5, 1.0]);
        assert_eq!(heat.rows.last().unwrap().seconds, 999.0);
    }
}

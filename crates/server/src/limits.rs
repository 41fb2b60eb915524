//! Every bound of the server in one place, and the memory they come to.
//!
//! The engine plans with [`Limits::reserved_bytes`] less than the budget, so whatever clients do, the
//! server's own memory comes out of what was set aside for it.

use std::time::Duration;

/// A head (request line and headers) is at most this long: 431 beyond.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// hyper's buffer for a connection, and what it gathers before it writes.
pub const CONNECTION_BUFFER_BYTES: usize = 64 << 10;
/// The kernel's buffers for a connection, each way.
pub const SOCKET_BUFFER_BYTES: usize = 64 << 10;
/// From the first chance to send a head to its end; also how long a connection may idle.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// From the end of the head to the end of the body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// A client that takes nothing of an answer for so long is gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(25);
/// Between two signs of life in a stream while nothing is ready.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Tokens of a prompt that go through the model beside the tokens of others' answers, where nothing is
/// read from the disk: a tenth of a second or so of theirs.
pub const PIECE_TOKENS: usize = 64;
/// Between two reports of how far a prompt is.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// After the last answer, before connections that idle are closed.
pub const LINGER: Duration = Duration::from_secs(2);
/// What a client waits at least before it tries again.
pub const RETRY_AFTER_S: u64 = 2;

/// Values (numbers, strings, lists, objects) in one request's JSON.
pub const JSON_VALUES_MAX: usize = 200_000;
/// Answers to one prompt.
pub const CHOICES_MAX: usize = 16;
/// Texts that end an answer. (OpenAI takes 4.)
pub const STOPS_MAX: usize = 64;
/// Bytes of them together.
pub const STOP_BYTES_MAX: usize = 64 << 10;
/// Tools of a request. (OpenAI takes 128.)
pub const TOOLS_MAX: usize = 128;
/// Entries of `logit_bias`. (OpenAI takes 300.)
pub const BIASES_MAX: usize = 1024;
/// Likeliest tokens that are listed beside each token. (OpenAI lists 20.)
pub const TOP_LOGPROBS_MAX: usize = 20;
/// Inputs of one request for embeddings. (OpenAI takes 2,048.)
pub const EMBEDDING_INPUTS_MAX: usize = 256;
/// Tokens an answer may be asked to have; longer than any context there is.
pub const TOKENS_MAX: u64 = 1 << 24;
/// Bytes of a grammar, a regular expression or a schema.
pub const GRAMMAR_BYTES_MAX: usize = 128 << 10;
/// Levels of brackets in a grammar or a regular expression.
pub const GRAMMAR_DEPTH_MAX: usize = 100;
/// Bytes of an answer that wait for their client before the answer is given up.
pub const PENDING_BYTES_MAX: usize = 256 << 10;

/// Bounds that depend on the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Requests that wait for the model.
    pub queue: usize,
    /// Answers that wait, run, or are still being taken by their clients.
    pub answers: usize,
    /// Bytes of one body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read or worked on.
    pub bodies_bytes: usize,
}

/// A connection that says nothing: hyper's first buffer, its task, the kernel's socket.
const CONNECTION_IDLE_BYTES: u64 = 16 << 10;
/// Rendered prompts, parsed JSON, compiled grammars, the trie of the vocabulary, stacks.
const WORK_BYTES: u64 = 24 << 20;

impl Limits {
    /// The bounds for a budget, for a queue of `queue` requests.
    #[must_use]
    pub fn for_budget(budget_bytes: u64, queue: usize) -> Self {
        let share = |part: u64, least: u64, most: u64| (budget_bytes / part).clamp(least, most);
        let connections = share(256 << 10, 256, 4096) as usize;
        let body_bytes = share(128, 2 << 20, 40 << 20) as usize;
        Self { connections, queue, answers: 2 * queue + 8, body_bytes, bodies_bytes: body_bytes }
    }

    /// What the server takes at most beside the engine, as far as it can be counted.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        // A slow reader's answer is rarely at its bound; a quarter of them may be.
        let pending = (self.answers * PENDING_BYTES_MAX / 4) as u64;
        let connections = self.connections as u64 * CONNECTION_IDLE_BYTES;
        connections + pending + self.bodies_bytes as u64 + WORK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_small_part_of_any_usual_budget() {
        for (budget, share) in [(300_u64 << 20, 0.26), (1 << 30, 0.16), (6_800_000_000, 0.03)] {
            let reserved = Limits::for_budget(budget, 32).reserved_bytes();
            assert!((reserved as f64) < share * budget as f64, "{reserved} of {budget}");
        }
        assert_eq!(Limits::for_budget(u64::MAX, 32).connections, 4096);
    }
}

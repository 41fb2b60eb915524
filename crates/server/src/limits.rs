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
/// What TLS takes for a connection ahead of the socket; one record of it is as long.
pub const TLS_BUFFER_BYTES: usize = 16 << 10;
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
/// Between two looks at a model whose file was at fault, while nobody asks anything of it.
pub const FAULT_INTERVAL: Duration = Duration::from_secs(3);
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
/// Texts of which an answer is to be one.
pub const WORDS_MAX: usize = 1024;
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

/// Memory that the work on a request takes at most for each byte of its body: its text as it came and as it was
/// rendered, and what the tokenizer has at work in a body of one word (28 bytes for each, `crates/tokenizer`).
/// `crates/cli/tests/serve_memory.rs` measures that this is enough.
pub const WORK_PER_BODY_BYTE: usize = 36;
/// The same for the values of its JSON, for each byte they take: the tree itself, the messages and tools that are
/// made of it, and the template's copies of both.
pub const WORK_PER_TREE_BYTE: usize = 4;
/// And for the tree alone, for each byte of a body that has as many values as fit into it (`[[1],[1],...`).
pub const TREE_PER_BODY_BYTE: usize = 100;
/// And what it takes however short it is.
pub const WORK_LEAST_BYTES: usize = 64 << 10;
/// What an answer that is gathered before it is sent takes for each byte of its text: as it grows, in the reader, and
/// as JSON.
pub const ANSWER_PER_TEXT_BYTE: usize = 4;
/// The same for each token before its text is known: 6 bytes of text, as most have. Where it is more, the answer asks
/// for more as it grows.
pub const ANSWER_PER_TOKEN: usize = 6 * ANSWER_PER_TEXT_BYTE;
/// What a token's log probability takes: its place in a list that grows, the box with what the allocator adds, its
/// share of the answer's pieces.
pub const LOGPROB_BYTES: usize = 128;
/// And each of the others beside it.
pub const TOP_LOGPROB_BYTES: usize = size_of::<(u32, f64)>();
/// How long a request waits for others' work to make room.
pub const WORK_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds that depend on the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Requests that wait for the model.
    pub queue: usize,
    /// Answers that wait, run, or are still being taken by their clients.
    pub answers: usize,
    /// Bytes of one body: as many as the work on it has memory for.
    pub body_bytes: usize,
    /// Bytes of all bodies that are being read, worked on, or answered.
    pub bodies_bytes: usize,
    /// Bytes of the work on all of them: see `work.rs`.
    pub work_bytes: usize,
    /// Answers that are kept to a shape at a time.
    pub shapes: usize,
    /// Connections speak TLS.
    pub tls: bool,
}

/// A connection that says nothing: hyper's first buffer, its task, the kernel's socket.
const CONNECTION_IDLE_BYTES: u64 = 16 << 10;
/// And its TLS: what is to be sent, a record that is being read, the keys.
const CONNECTION_TLS_BYTES: u64 = 2 * TLS_BUFFER_BYTES as u64 + (8 << 10);
/// The program's threads: their stacks, what the allocator keeps for each, the runtime.
const THREADS_BYTES: u64 = 2 << 20;

/// A constraint and the copy that an answer goes through: 0.5 MB with a schema of ten fields and a pattern.
const SHAPE_BYTES: u64 = 512 << 10;
/// The vocabulary as tries, and what it takes to build them, for each token: measured with 49,152 and 262,144.
const GRAMMAR_BYTES_PER_TOKEN: u64 = 250;

impl Limits {
    /// The bounds for a budget, for a queue of `queue` requests; without TLS.
    #[must_use]
    pub fn for_budget(budget_bytes: u64, queue: usize) -> Self {
        let share = |part: u64, least: u64, most: u64| (budget_bytes / part).clamp(least, most);
        let connections = share(256 << 10, 256, 4096) as usize;
        let work_bytes = share(48, 10 << 20, 80 << 20) as usize;
        let body_bytes = (work_bytes - WORK_LEAST_BYTES) / WORK_PER_BODY_BYTE;
        let bodies_bytes = share(256, 2 << 20, 24 << 20) as usize;
        let shapes = share(64 << 20, 4, 32) as usize;
        let answers = 2 * queue + 8;
        Self {
            connections,
            queue,
            answers,
            body_bytes,
            bodies_bytes,
            work_bytes,
            shapes,
            tls: false,
        }
    }

    /// What the server takes at most beside the engine, as far as it can be counted; without what depends on
    /// the model, [`Limits::grammar_bytes`].
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        // A slow reader's answer is rarely at its bound; a quarter of them may be.
        let pending = (self.answers * PENDING_BYTES_MAX / 4) as u64;
        let tls = if self.tls { CONNECTION_TLS_BYTES } else { 0 };
        let connections = self.connections as u64 * (CONNECTION_IDLE_BYTES + tls);
        let work = (self.bodies_bytes + self.work_bytes) as u64;
        connections + pending + work + THREADS_BYTES + self.shapes as u64 * SHAPE_BYTES
    }

    /// What grammars take for a vocabulary of so many tokens, from the first that is asked for on.
    #[must_use]
    pub fn grammar_bytes(vocabulary: usize) -> u64 {
        GRAMMAR_BYTES_PER_TOKEN * vocabulary as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_small_part_of_any_usual_budget() {
        for (budget, share) in [(300_u64 << 20, 0.17), (1 << 30, 0.102), (6_800_000_000, 0.03)] {
            let reserved = Limits::for_budget(budget, 32).reserved_bytes();
            assert!((reserved as f64) < share * budget as f64, "{reserved} of {budget}");
        }
        assert_eq!(Limits::for_budget(u64::MAX, 32).connections, 4096);
    }
}

//! Stop strings in a stream of bytes.
//!
//! An Aho-Corasick automaton: one step for each byte however many stop strings there are. The depth
//! of its state is the length of the longest end of the text that could still become a stop
//! string; exactly so many bytes are held back, the rest is passed on at once.

/// Bytes of all stop strings together are limited: the automaton takes about 24 bytes for each.
pub const STOP_BYTES_MAX: usize = 16 << 20;

/// What is wrong with a set of stop strings.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// An empty stop string would stop everything.
    #[error("stop string {index} is empty")]
    Empty {
        /// Which one.
        index: usize,
    },
    /// They are longer than [`STOP_BYTES_MAX`] together.
    #[error("the stop strings have more than {STOP_BYTES_MAX} bytes together")]
    TooLong,
}

const ROOT: u32 = 0;
/// No node, no stop string. (The root is nobody's child or sibling.)
const NONE: u32 = u32::MAX;

/// A node of the tree of all beginnings of stop strings.
#[derive(Clone, Debug)]
struct Node {
    /// The node of the longest proper end of this one's bytes that is in the tree.
    fallback: u32,
    /// How many bytes lead here.
    depth: u32,
    /// The longest stop string that is an end of this node's bytes.
    stop: u32,
    /// The first child, and the next child of the same parent.
    child: u32,
    sibling: u32,
    byte: u8,
}

impl Node {
    fn new(byte: u8, depth: u32, sibling: u32) -> Node {
        Node { fallback: ROOT, depth, stop: NONE, child: NONE, sibling, byte }
    }
}

/// Finds stop strings in streamed text and holds back what may be the beginning of one.
///
/// If pieces and stop strings are whole characters, so is what is passed on.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    nodes: Vec<Node>,
    lengths: Vec<u32>,
    /// The root's children by byte: most bytes of a text are looked up there.
    first: Box<[u32; 256]>,
    state: u32,
    /// The last bytes, as many as the state is deep.
    held: Vec<u8>,
    stopped: Option<usize>,
}

impl StopMatcher {
    /// An automaton for the stop strings; for none, text passes through.
    ///
    /// # Errors
    /// [`StopError`] if one is empty, or they are too long together.
    pub fn new<T: AsRef<[u8]>>(stops: &[T]) -> Result<StopMatcher, StopError> {
        let mut total = 0_usize;
        for (index, stop) in stops.iter().enumerate() {
            if stop.as_ref().is_empty() {
                return Err(StopError::Empty { index });
            }
            total = total.saturating_add(stop.as_ref().len());
        }
        if total > STOP_BYTES_MAX {
            return Err(StopError::TooLong);
        }
        let mut matcher = StopMatcher {
            nodes: vec![Node::new(0, 0, NONE)],
            lengths: stops.iter().map(|stop| narrow(stop.as_ref().len())).collect(),
            first: Box::new([NONE; 256]),
            state: ROOT,
            held: Vec::new(),
            stopped: None,
        };
        for (index, stop) in stops.iter().enumerate() {
            matcher.insert(narrow(index), stop.as_ref());
        }
        matcher.link();
        Ok(matcher)
    }

    fn insert(&mut self, index: u32, stop: &[u8]) {
        let mut at = ROOT;
        for byte in stop {
            at = match self.child(at, *byte) {
                Some(child) => child,
                None => self.grow(at, *byte),
            };
        }
        let node = &mut self.nodes[at as usize];
        // Of equal stop strings the first is reported.
        if node.stop == NONE {
            node.stop = index;
        }
    }

    fn grow(&mut self, parent: u32, byte: u8) -> u32 {
        let id = narrow(self.nodes.len());
        let Node { depth, child, .. } = self.nodes[parent as usize];
        self.nodes.push(Node::new(byte, depth + 1, child));
        self.nodes[parent as usize].child = id;
        if parent == ROOT {
            self.first[usize::from(byte)] = id;
        }
        id
    }

    /// Sets fallbacks, breadth first: a node's fallback is nearer to the root than the node.
    fn link(&mut self) {
        let mut queue = Vec::with_capacity(self.nodes.len());
        queue.push(ROOT);
        let mut next = 0;
        while let Some(&parent) = queue.get(next) {
            next += 1;
            let mut child = self.nodes[parent as usize].child;
            while child != NONE {
                queue.push(child);
                let Node { byte, sibling, .. } = self.nodes[child as usize];
                if parent != ROOT {
                    let from = self.nodes[parent as usize].fallback;
                    let fallback = self.step(from, byte);
                    let stop = self.nodes[fallback as usize].stop;
                    let node = &mut self.nodes[child as usize];
                    node.fallback = fallback;
                    // Its own stop string is longer than any that is a proper end of it.
                    if node.stop == NONE {
                        node.stop = stop;
                    }
                }
                child = sibling;
            }
        }
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        if node == ROOT {
            return Some(self.first[usize::from(byte)]).filter(|child| *child != NONE);
        }
        let mut child = self.nodes[node as usize].child;
        while child != NONE {
            let node = &self.nodes[child as usize];
            if node.byte == byte {
                return Some(child);
            }
            child = node.sibling;
        }
        None
    }

    /// The state after one more byte. Falling back shortens what earlier bytes have lengthened, so
    /// a text of n bytes takes at most 2 n looks.
    fn step(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            match self.child(state, byte) {
                Some(child) => return child,
                None if state == ROOT => return ROOT,
                None => state = self.nodes[state as usize].fallback,
            }
        }
    }

    /// Takes a piece of text and appends to `out` what is certain not to be part of a stop string.
    /// Returns the index of a stop string as soon as one is complete (of several that end at the
    /// same byte, the longest); `out` then ends where it began, and later text is swallowed.
    pub fn push(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        for byte in text {
            if self.stopped.is_some() {
                break;
            }
            self.held.push(*byte);
            self.state = self.step(self.state, *byte);
            let node = &self.nodes[self.state as usize];
            if let Some(length) = self.lengths.get(node.stop as usize) {
                self.stopped = Some(node.stop as usize);
                let before = self.held.len() - *length as usize;
                out.extend_from_slice(&self.held[..before]);
                self.held.clear();
            }
        }
        if self.stopped.is_none() {
            let certain = self.held.len() - self.nodes[self.state as usize].depth as usize;
            out.extend(self.held.drain(..certain));
        }
        self.stopped
    }

    /// The stop string that was found, if one was.
    #[must_use]
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// How many bytes are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The text has ended: appends to `out` what was held back, and is ready for another text.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = ROOT;
        self.stopped = None;
    }
}

/// Lengths and indices are at most [`STOP_BYTES_MAX`] (no stop string is empty).
fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What naive search says: text before the stop string that ends first (the longest of those),
    /// and which it is.
    fn naive(stops: &[Vec<u8>], text: &[u8]) -> (Vec<u8>, Option<usize>) {
        for end in 1..=text.len() {
            let ends = |stop: &[u8]| text[..end].ends_with(stop);
            let longest = stops.iter().filter(|stop| ends(stop)).map(Vec::len).max();
            if let Some(length) = longest {
                let index = stops.iter().position(|stop| stop.len() == length && ends(stop));
                return (text[..end - length].to_vec(), index);
            }
        }
        (text.to_vec(), None)
    }

    fn streamed(stops: &[Vec<u8>], text: &[u8], piece: usize) -> (Vec<u8>, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut out = Vec::new();
        let mut found = None;
        for (index, bytes) in text.chunks(piece).enumerate() {
            found = matcher.push(bytes, &mut out);
            // Everything is either passed on or held, and only as much is held as must be.
            if found.is_none() {
                let so_far = &text[..text.len().min((index + 1) * piece)];
                assert_eq!(out.len() + matcher.held(), so_far.len());
                let beginning = |n: usize| {
                    stops.iter().any(|stop| stop.len() > n && so_far.ends_with(&stop[..n]))
                };
                let needed = (0..=so_far.len()).rev().find(|n| *n == 0 || beginning(*n));
                assert_eq!(Some(matcher.held()), needed);
            }
        }
        matcher.finish(&mut out);
        (out, found)
    }

    #[test]
    fn equals_naive_search_on_random_texts() {
        let mut random = 1_u64;
        let mut next = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((random >> 33) % n) as usize
        };
        for _ in 0..3000 {
            let word = |next: &mut dyn FnMut(u64) -> usize, n: usize| -> Vec<u8> {
                (0..n).map(|_| b'a' + next(3) as u8).collect()
            };
            let count = next(5);
            let stops: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    let n = 1 + next(6);
                    word(&mut next, n)
                })
                .collect();
            let n = next(40);
            let text = word(&mut next, n);
            let piece = 1 + next(7);
            assert_eq!(streamed(&stops, &text, piece), naive(&stops, &text), "{stops:?} {text:?}");
        }
    }

    #[test]
    fn later_text_is_swallowed_until_finish() {
        let mut matcher = StopMatcher::new(&["END"]).unwrap();
        let mut out = Vec::new();
        assert_eq!(matcher.push(b"one EN", &mut out), None);
        assert_eq!(out, b"one ");
        assert_eq!(matcher.push(b"D two", &mut out), Some(0));
        assert_eq!(matcher.push(b" three", &mut out), Some(0));
        assert_eq!(out, b"one ");
        matcher.finish(&mut out);
        assert_eq!(matcher.push(b"EN", &mut out), None);
        matcher.finish(&mut out);
        assert_eq!(out, b"one EN");
    }

    #[test]
    fn characters_stay_whole() {
        let mut matcher = StopMatcher::new(&["é", "ßx"]).unwrap();
        let mut out = Vec::new();
        for character in ["è", "ß", "y", "ß"] {
            matcher.push(character.as_bytes(), &mut out);
            assert!(std::str::from_utf8(&out).is_ok());
        }
        assert_eq!(out, "èßy".as_bytes());
    }

    /// Row 38 of the bad inputs: many stop strings; and a text made to fall back all the time. Linear
    /// time is seconds less than the quadratic one, not a matter of measuring.
    #[test]
    fn a_hundred_thousand_stop_strings_take_linear_time() {
        let stops: Vec<String> =
            (0..100_000).map(|i| format!("{}x{i}", "a".repeat(i % 90))).collect();
        let mut matcher = StopMatcher::new(&stops).unwrap();
        let mut out = Vec::new();
        let text = "a".repeat(1_000_000);
        assert_eq!(matcher.push(text.as_bytes(), &mut out), None);
        assert_eq!(matcher.held(), 89);
        // "aaaaaaaax8" is complete before "x89" is.
        assert_eq!(matcher.push(b"x89", &mut out), Some(8));
        assert_eq!(out.len(), 1_000_000 - 8);
        matcher.finish(&mut out);
        assert_eq!(matcher.push(b"aaax94", &mut out), None);
        matcher.finish(&mut out);
        assert_eq!(matcher.push(b"aaaax94", &mut out), Some(94));
    }

    #[test]
    fn senseless_sets_are_errors() {
        assert_eq!(StopMatcher::new(&["a", ""]).unwrap_err(), StopError::Empty { index: 1 });
        let long = vec![0_u8; STOP_BYTES_MAX + 1];
        assert_eq!(StopMatcher::new(&[long]).unwrap_err(), StopError::TooLong);
        let mut out = Vec::new();
        assert_eq!(StopMatcher::new::<&str>(&[]).unwrap().push(b"abc", &mut out), None);
        assert_eq!(out, b"abc");
    }
}

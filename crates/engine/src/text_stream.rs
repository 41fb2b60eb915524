//! Bytes of tokens become text that can be shown: whole characters only, and nothing that may turn
//! out to be the beginning of a stop text.

use crate::stop::{StopError, StopMatcher};

/// Bytes in, text out.
#[derive(Debug)]
pub struct TextStream {
    stop: StopMatcher,
    /// Bytes past the matcher: those of a character that is not complete.
    bytes: Vec<u8>,
}

impl TextStream {
    /// Ends before any of these texts.
    ///
    /// # Errors
    /// One of them is empty, or they are too long together.
    pub fn new(stops: &[String]) -> Result<Self, StopError> {
        Ok(Self { stop: StopMatcher::new(stops)?, bytes: Vec::new() })
    }

    /// Whether a stop text was found.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.stopped().is_some()
    }

    /// Which stop text was found.
    #[must_use]
    pub fn stopped(&self) -> Option<usize> {
        self.stop.stopped()
    }

    /// What can be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.stop.push(bytes, &mut self.bytes);
        self.whole_characters()
    }

    /// What is left at the end: text that was held back for nothing, U+FFFD for half a character.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.stop.finish(&mut self.bytes);
        let mut text = self.whole_characters();
        if !self.bytes.is_empty() {
            text.push('\u{fffd}');
        }
        text
    }

    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let wrong = chunk.invalid();
            // At the very end it may be the beginning of a character that goes on.
            let may_go_on = used + wrong.len() == self.bytes.len()
                && str::from_utf8(wrong).is_err_and(|error| error.error_len().is_none());
            if wrong.is_empty() || may_go_on {
                break;
            }
            text.push('\u{fffd}');
            used += wrong.len();
        }
        self.bytes.drain(..used);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pieces: &[&[u8]], stops: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&stops).unwrap();
        let mut shown: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
        let stopped = stream.is_stopped();
        shown.push(stream.finish());
        (shown, stopped)
    }

    #[test]
    fn half_a_character_is_never_shown() {
        let euro = "€".as_bytes();
        let (shown, _) = stream(&[b"a", &euro[..1], &euro[1..2], &euro[2..], b"b"], &[]);
        assert_eq!(shown, ["a", "", "", "€", "b", ""]);
        let (shown, _) = stream(&[&euro[..2], b"x", b"\xff", &euro[..1]], &[]);
        assert_eq!(shown, ["", "\u{fffd}x", "\u{fffd}", "", "\u{fffd}"]);
    }

    #[test]
    fn the_text_ends_before_a_stop_text_however_it_is_cut() {
        let (shown, stopped) = stream(&[b"one\n", b"\nUs", b"er: two"], &["\n\nUser:"]);
        assert_eq!((shown.concat().as_str(), stopped), ("one", true));
        let (shown, stopped) = stream(&[b"one\n", b"\nUs", b"eful"], &["\n\nUser:"]);
        assert_eq!((shown.concat().as_str(), stopped), ("one\n\nUseful", false));
        assert_eq!(stream(&[b"so", b"<en"], &["<end>"]).0.concat(), "so<en");
        assert_eq!(stream(&["é".as_bytes(), b"x"], &["éx"]).0.concat(), "");
        let (shown, _) = stream(&[b"a.b", b"c", b"\xe2"], &["."]);
        assert_eq!(shown, ["a", "", "", ""], "nothing follows a stop text");
    }
}

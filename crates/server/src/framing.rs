//! Watches the bytes of requests for what HTTP libraries forgive and attackers use: two ways to say how long a
//! body is, line ends without a carriage return. Finds where each head begins and ends; changes nothing.

/// Bytes of a line that are kept: enough for the names and values looked at.
const LINE_BYTES_KEPT: usize = 256;
/// Digits of a chunk's length.
const CHUNK_DIGITS_MAX: usize = 12;

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A line ends in LF alone, or CR stands alone.
    LineEnd,
    /// Content-Length beside Transfer-Encoding, or twice.
    Length,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes of a body that are to come.
    Body(u64),
    ChunkSize,
    /// Bytes of a chunk and the line end behind it.
    Chunk(u64),
    Trailer,
    /// Nothing is known any more; the HTTP library decides.
    Opaque,
}

/// Follows one connection.
#[derive(Debug)]
pub struct Framing {
    state: State,
    line: Vec<u8>,
    line_bytes: usize,
    after_cr: bool,
    lines: usize,
    length: Option<u64>,
    has_length: bool,
    chunked: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            state: State::Head,
            line: Vec::new(),
            line_bytes: 0,
            after_cr: false,
            lines: 0,
            length: None,
            has_length: false,
            chunked: false,
        }
    }
}

impl Framing {
    /// Follows `bytes`.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Wrong> {
        while !bytes.is_empty() {
            match self.state {
                State::Opaque => return Ok(()),
                State::Body(left) | State::Chunk(left) => {
                    let skip = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[skip..];
                    let left = left - skip as u64;
                    self.state = match (self.state, left) {
                        (State::Body(_), 0) => State::Head,
                        (State::Body(_), left) => State::Body(left),
                        (_, 0) => State::ChunkSize,
                        (_, left) => State::Chunk(left),
                    };
                }
                State::Head | State::ChunkSize | State::Trailer => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    self.byte(byte)?;
                }
            }
        }
        Ok(())
    }

    /// A byte of a line.
    fn byte(&mut self, byte: u8) -> Result<(), Wrong> {
        match (byte, self.after_cr) {
            (b'\n', true) => {
                self.after_cr = false;
                self.end_of_line()
            }
            (b'\n', false) | (_, true) => Err(Wrong::LineEnd),
            (b'\r', false) => {
                self.after_cr = true;
                Ok(())
            }
            (byte, false) => {
                self.line_bytes += 1;
                if self.line.len() < LINE_BYTES_KEPT {
                    self.line.push(byte);
                }
                Ok(())
            }
        }
    }

    fn end_of_line(&mut self) -> Result<(), Wrong> {
        let line = std::mem::take(&mut self.line);
        let empty = std::mem::take(&mut self.line_bytes) == 0;
        match self.state {
            State::Head if empty && self.lines == 0 => {}
            State::Head if empty => self.end_of_head()?,
            State::Head => {
                self.lines += 1;
                if self.lines > 1 {
                    self.header(&line)?;
                }
            }
            State::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size = str::from_utf8(&line[..digits.min(CHUNK_DIGITS_MAX)]).unwrap_or("");
                self.state = match u64::from_str_radix(size, 16) {
                    Ok(0) => State::Trailer,
                    Ok(size) if digits <= CHUNK_DIGITS_MAX => State::Chunk(size + 2),
                    _ => State::Opaque,
                };
            }
            _ if empty => self.next_request(),
            _ => {}
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let name = line[..colon].trim_ascii();
        let value = line[colon + 1..].trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.has_length {
                return Err(Wrong::Length);
            }
            self.has_length = true;
            self.length = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked {
                return Err(Wrong::Length);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Wrong> {
        let (has_length, length, chunked) = (self.has_length, self.length, self.chunked);
        self.next_request();
        self.state = match (has_length, chunked) {
            (true, true) => return Err(Wrong::Length),
            (false, true) => State::ChunkSize,
            (true, false) => match length {
                Some(0) => State::Head,
                Some(length) => State::Body(length),
                None => State::Opaque,
            },
            (false, false) => State::Head,
        };
        Ok(())
    }

    fn next_request(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(text: &str, size: usize) -> Result<(), Wrong> {
        let mut framing = Framing::default();
        text.as_bytes().chunks(size).try_for_each(|piece| framing.follow(piece))
    }

    #[test]
    fn smuggling_is_found_and_honest_requests_pass_however_they_are_cut() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\na\nb\r\n\n\n";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n\n\n\n\r\n0\r\nA: b\r\n\r\n";
        for (text, expected) in [
            (format!("{get}{post}{chunked}{get}"), Ok(())),
            (format!("\r\n{get}"), Ok(())),
            ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), Err(Wrong::LineEnd)),
            ("GET / HTTP/1.1\r\nHost: a\r\rX: b\r\n\r\n".to_owned(), Err(Wrong::LineEnd)),
            (format!("{post}GET / HTTP/1.1\n"), Err(Wrong::LineEnd)),
            (format!("{chunked}GET / HTTP/1.1\n"), Err(Wrong::LineEnd)),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncontent-length: 3\r\n\r\n".into(),
                Err(Wrong::Length),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length : 3\r\nTRANSFER-ENCODING: x\r\n\r\n".into(),
                Err(Wrong::Length),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n".into(),
                Err(Wrong::Length),
            ),
        ] {
            for size in [1, 2, 7, 1000] {
                assert_eq!(follow(&text, size), expected, "{text:?} by {size}");
            }
        }
    }
}

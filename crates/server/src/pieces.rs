//! JSON that grows with its request (tokens, texts, vectors), written piece by piece as its client takes it:
//! it is never in memory as a whole, nor as a tree of values.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

use crate::work::Part;

/// Bytes of a text that one piece takes at most.
const TEXT_BYTES: usize = 16 << 10;

struct Pieces<F> {
    piece: F,
    next: usize,
    left: u64,
    _work: Arc<Part>,
}

/// A response of JSON: `piece(0)`, `piece(1)` and so on, up to the first that is not there. Each is asked for
/// twice: the whole has a length. What they are made of is counted by `work` until the last is written.
pub fn respond<F>(piece: F, work: Arc<Part>) -> Response
where
    F: Fn(usize) -> Option<String> + Send + Unpin + 'static,
{
    let left = (0..).map_while(&piece).map(|text| text.len() as u64).sum();
    let body = Pieces { piece, next: 0, left, _work: work };
    let mut response = Body::new(body.boxed_unsync()).into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

impl<F: Fn(usize) -> Option<String> + Unpin> hyper::body::Body for Pieces<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = (self.piece)(self.next);
        self.next += 1;
        Poll::Ready(piece.map(|text| {
            self.left = self.left.saturating_sub(text.len() as u64);
            Ok(Frame::data(Bytes::from(text)))
        }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A response of JSON that is there as a whole, counted by `work` until it is written.
pub fn whole(value: serde_json::Value, work: Arc<Part>) -> Response {
    let text = value.to_string();
    drop(value);
    respond(move |number| (number == 0).then(|| text.clone()), work)
}

/// How many pieces a text has; one at least.
pub fn of_text(text: &str) -> usize {
    text.len().div_ceil(TEXT_BYTES).max(1)
}

/// The piece of a text with this number, as it stands between the quotes of a JSON string.
pub fn text(text: &str, number: usize) -> String {
    let boundary = |at: usize| {
        let at = at.saturating_mul(TEXT_BYTES).min(text.len());
        (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
    };
    let piece = text.get(boundary(number)..boundary(number + 1)).unwrap_or_default();
    let quoted = serde_json::Value::from(piece).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_text_are_the_text() {
        for whole in ["", "a", "\"\n\u{1}\\", &"é\"".repeat(20_000), &"€".repeat(TEXT_BYTES)] {
            let pieces: String = (0..of_text(whole)).map(|number| text(whole, number)).collect();
            let read: String = serde_json::from_str(&format!("\"{pieces}\"")).unwrap();
            assert_eq!(read, *whole);
            assert!((0..of_text(whole)).all(|number| text(whole, number).len() <= 2 * TEXT_BYTES));
        }
    }
}

//! Fetching a whole file into its `.part`, over as many connections as it takes.

use std::io::{self, Read};
use std::path::Path;

use ureq::Body;
use ureq::http::{Response, header};

use super::http::{
    Ask, Client, Cut, HttpError, Patience, Source, content_length, content_range,
    content_range_total, header_text, is_passing,
};
use super::part::{Part, Resume};
use crate::progress::Transfer;

/// How one attempt ended.
enum Attempt {
    Complete(u64),
    /// The length reached, and why there is no more.
    Cut(u64, Cut),
}

/// What an answer brings: where its body begins, and the file's length if it is known.
struct Answer {
    start: u64,
    total: Option<u64>,
}

impl Client {
    /// Fetches into `path`, going on where an earlier fetch of the same file stopped. Returns the
    /// file's length. Whether its bytes are the right ones is for the caller to check.
    ///
    /// # Errors
    /// What the server refuses, or a connection that breaks again and again; a piece stays, to be
    /// gone on with.
    pub fn download(
        &self,
        source: &Source<'_>,
        path: &Path,
        progress: &Transfer,
    ) -> Result<u64, HttpError> {
        let mut part = Part::open(path)?;
        let fetched = self.fetch(source, &mut part, progress);
        if fetched.is_err() {
            part.leave();
        }
        fetched
    }

    fn fetch(
        &self,
        source: &Source<'_>,
        part: &mut Part,
        progress: &Transfer,
    ) -> Result<u64, HttpError> {
        // A server that ignores ranges sends from the start each time: only what goes beyond the
        // longest piece so far is progress.
        let mut patience = Patience::from(part.bytes()?);
        loop {
            match self.attempt(source, part, progress)? {
                Attempt::Complete(bytes) => {
                    part.sync()?;
                    return Ok(bytes);
                }
                Attempt::Cut(reached, cut) => self.pause(&mut patience, reached, cut, source)?,
            }
        }
    }

    fn attempt(
        &self,
        source: &Source<'_>,
        part: &mut Part,
        progress: &Transfer,
    ) -> Result<Attempt, HttpError> {
        let (have, if_range) = match part.resume(source)? {
            Resume::Whole(bytes) => return Ok(Attempt::Complete(bytes)),
            Resume::From(have) => (have, None),
            Resume::IfStill(have, etag) => (have, Some(etag)),
        };
        let ask = Ask { from: have, to: None, if_range: if_range.as_deref() };
        let response = match self.get(source, &ask) {
            Ok(response) => response,
            Err(why @ HttpError::Unreachable(_)) => return Ok(Attempt::Cut(have, why.into())),
            Err(other) => return Err(other),
        };
        let etag = strong_etag(&response);
        let answer = match response.status().as_u16() {
            200 => Answer { start: 0, total: content_length(&response) },
            206 if if_range.is_some() && etag.is_some() && etag != if_range.as_deref() => {
                return anew(part, progress, "the server's file is another one than before");
            }
            206 => match content_range(&response) {
                Some((start, total)) if start == have => Answer { start, total },
                _ => return Err(HttpError::Protocol("the server sent another range".to_owned())),
            },
            // Nothing comes after what is here: it is the whole, or a piece of something else.
            416 if have > 0 => {
                let total = content_range_total(&response);
                if total == Some(have) && source.bytes.is_none_or(|bytes| bytes == have) {
                    return Ok(Attempt::Complete(have));
                }
                return anew(part, progress, "the server has no such range");
            }
            status if is_passing(status) => {
                return Ok(Attempt::Cut(have, Cut::of_status(&response)));
            }
            status => return Err(HttpError::Status(status)),
        };
        let answer = Answer { total: agreed(answer.total, source.bytes)?, ..answer };
        match answer.start {
            0 => part.begin(source, etag)?,
            _ => part.cut_to(have)?,
        }
        progress.set_done(answer.start);
        if let Some(total) = answer.total {
            progress.set_total(total);
        }
        copy_body(response, part, &answer, progress)
    }
}

/// The next attempt is from the start.
fn anew(part: &mut Part, progress: &Transfer, why: &str) -> Result<Attempt, HttpError> {
    part.clear()?;
    progress.set_done(0);
    Ok(Attempt::Cut(0, HttpError::Protocol(why.to_owned()).into()))
}

fn agreed(told: Option<u64>, known: Option<u64>) -> Result<Option<u64>, HttpError> {
    match told.zip(known).filter(|(told, known)| told != known) {
        Some((told, known)) => {
            let why = format!("the server's file has {told} bytes, {known} were expected");
            Err(HttpError::Protocol(why))
        }
        None => Ok(told.or(known)),
    }
}

/// Weak ones (`W/"..."`) may stand for different bytes and are of no use here (RFC 9110, 13.1.5).
fn strong_etag(response: &Response<Body>) -> Option<&str> {
    header_text(response, &header::ETAG).filter(|etag| etag.starts_with('"'))
}

fn copy_body(
    response: Response<Body>,
    part: &mut Part,
    answer: &Answer,
    progress: &Transfer,
) -> Result<Attempt, HttpError> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 256 << 10];
    let mut have = answer.start;
    let cut = |have, why: String| Ok(Attempt::Cut(have, HttpError::Unreachable(why).into()));
    loop {
        let n = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return cut(have, format!("the connection broke: {error}")),
        };
        if answer.total.is_some_and(|total| have + n as u64 > total) {
            return Err(HttpError::Protocol("the server sent more than the file".to_owned()));
        }
        part.append(&buffer[..n])?;
        have += n as u64;
        progress.add(n as u64);
    }
    match answer.total {
        Some(total) if have < total => {
            cut(have, format!("the connection ended at {have} of {total} bytes"))
        }
        _ => Ok(Attempt::Complete(have)),
    }
}

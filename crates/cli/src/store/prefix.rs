//! The beginning of a file over HTTP: as much of it as is asked for and no more.

use std::io::{self, Read};

use ureq::Body;
use ureq::http::Response;

use super::http::{
    Ask, Client, Cut, HttpError, Patience, Source, content_length, content_range, is_passing,
};

/// How one attempt ended.
enum Attempt {
    /// All that was wanted is there; the file's length.
    Complete(u64),
    /// Why there is no more.
    Cut(Cut),
}

impl Client {
    /// Extends `bytes`, the beginning of a file, to `wanted` bytes or to the file's end, and returns
    /// the file's length. A server that knows no ranges sends the file from its start: then the
    /// connection is closed as soon as enough has come.
    pub fn extend_prefix(
        &self,
        source: &Source<'_>,
        bytes: &mut Vec<u8>,
        wanted: u64,
    ) -> Result<u64, HttpError> {
        let mut patience = Patience::from(bytes.len() as u64);
        loop {
            match self.attempt_prefix(source, bytes, wanted)? {
                Attempt::Complete(total) => return Ok(total),
                Attempt::Cut(cut) => {
                    self.pause(&mut patience, bytes.len() as u64, cut, source)?;
                }
            }
        }
    }

    fn attempt_prefix(
        &self,
        source: &Source<'_>,
        bytes: &mut Vec<u8>,
        wanted: u64,
    ) -> Result<Attempt, HttpError> {
        let have = bytes.len() as u64;
        let wanted = source.bytes.map_or(wanted, |total| wanted.min(total));
        if let Some(total) = source.bytes.filter(|_| have >= wanted) {
            return Ok(Attempt::Complete(total));
        }
        let ask = Ask { from: have, to: Some(wanted), if_range: None };
        let response = match self.get(source, &ask) {
            Ok(response) => response,
            Err(why @ HttpError::Unreachable(_)) => return Ok(Attempt::Cut(why.into())),
            Err(other) => return Err(other),
        };
        let (skip, total) = match response.status().as_u16() {
            200 => (have, content_length(&response)),
            206 => match content_range(&response) {
                Some((start, total)) if start == have => (0, total),
                _ => return Err(HttpError::Protocol("the server sent another range".to_owned())),
            },
            416 => {
                let why = format!("the server's file ends before byte {have}");
                return Err(HttpError::Protocol(why));
            }
            status if is_passing(status) => {
                return Ok(Attempt::Cut(Cut::of_status(&response)));
            }
            status => return Err(HttpError::Status(status)),
        };
        let total = agreed(total, source.bytes)?;
        let missing = wanted.min(total).saturating_sub(have);
        take(response, bytes, skip, missing, total)
    }
}

/// The file's length, which the server must tell in one way at least, and not in two.
fn agreed(told: Option<u64>, known: Option<u64>) -> Result<u64, HttpError> {
    match (told, known) {
        (Some(told), Some(known)) if told != known => {
            let why = format!("the server's file has {told} bytes, {known} were expected");
            Err(HttpError::Protocol(why))
        }
        (Some(total), _) | (None, Some(total)) => Ok(total),
        (None, None) => {
            Err(HttpError::Protocol("the server does not say how long the file is".to_owned()))
        }
    }
}

/// Reads past `skip` bytes of the body, then `missing` ones, and leaves the rest.
fn take(
    response: Response<Body>,
    bytes: &mut Vec<u8>,
    skip: u64,
    missing: u64,
    total: u64,
) -> Result<Attempt, HttpError> {
    let have = bytes.len();
    // A server that is asked for a range and sends more than that is not read to the end.
    let mut body = response.into_body().into_reader();
    let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
    let taken = skipped.and_then(|_| body.take(missing).read_to_end(bytes));
    let gained = bytes.len() - have;
    let why = match taken {
        Ok(_) if gained as u64 == missing => return Ok(Attempt::Complete(total)),
        Ok(_) => format!("the connection ended at {} of {total} bytes", bytes.len()),
        Err(error) => format!("the connection broke: {error}"),
    };
    Ok(Attempt::Cut(HttpError::Unreachable(why).into()))
}

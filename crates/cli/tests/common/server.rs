//! A small HTTP server for tests: files with ranges, cuts and redirections, and a log.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What is answered at a path.
#[derive(Clone, Default)]
pub struct Route {
    pub body: Vec<u8>,
    /// So many zeros follow the body: weights that nobody should ask for.
    pub zeros: u64,
    /// Any other status than 200/206, with the body.
    pub status: Option<u16>,
    /// `Location`, with status 302.
    pub redirect: Option<String>,
    /// Ranges are ignored.
    pub no_ranges: bool,
    /// No answer says how long it is: a connection that ends is all there is.
    pub no_length: bool,
    /// The first answer breaks off after so many bytes of its body.
    pub cut_first: Option<usize>,
    /// Every answer breaks off after so many bytes of its body.
    pub cut_always: Option<usize>,
    /// Ranges are answered with 416, whatever they are.
    pub refuses_ranges: bool,
    /// So many answers are 503 first, each with this `Retry-After`.
    pub busy_first: u32,
    pub retry_after: Option<String>,
    /// Sent along; a range is for those only who know it.
    pub etag: Option<String>,
    /// Answered only with this header line.
    pub needs_header: Option<String>,
}

impl Route {
    pub fn file(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    /// The start of the range asked for.
    pub from: Option<u64>,
    /// Its last byte, if it was given.
    pub to: Option<u64>,
    /// Whether a token came along.
    pub has_token: bool,
}

pub struct Server {
    address: SocketAddr,
    routes: Arc<Mutex<HashMap<String, Route>>>,
    log: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicU64>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Arc::new(Mutex::new(HashMap::new()));
        let log = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(AtomicU64::new(0));
        let shared = (Arc::clone(&routes), Arc::clone(&log), Arc::clone(&sent));
        // Ends with the test's process; a connection at a time is enough.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away early is part of the tests.
                let _ = answer(stream, &shared.0, &shared.1, &shared.2);
            }
        });
        Self { address, routes, log, sent }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn route(&self, path: &str, route: Route) {
        self.routes.lock().unwrap().insert(path.to_owned(), route);
    }

    pub fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Bytes of bodies that went out.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn answer(
    stream: TcpStream,
    routes: &Mutex<HashMap<String, Route>>,
    log: &Mutex<Vec<Request>>,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let Some((asked, lines)) = read_request(&mut reader)? else { return Ok(()) };
    log.lock().unwrap().push(asked.clone());
    let route = take_route(&mut routes.lock().unwrap(), &asked.path);
    let mut stream = reader.into_inner();
    if let Some(location) = &route.redirect {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let total = route.body.len() as u64 + route.zeros;
    let (status, start) = status(&route, &asked, &lines, total);
    let end = asked.to.filter(|_| status == 206).map_or(total, |to| (to + 1).min(total));
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\n")?;
    if !route.no_length {
        write!(stream, "Content-Length: {}\r\n", end - start)?;
    }
    if let Some(etag) = &route.etag {
        write!(stream, "ETag: {etag}\r\n")?;
    }
    match status {
        206 => write!(stream, "Content-Range: bytes {start}-{}/{total}\r\n", end - 1)?,
        416 if !route.refuses_ranges => write!(stream, "Content-Range: bytes */{total}\r\n")?,
        503 => {
            let wait = route.retry_after.iter();
            wait.into_iter().try_for_each(|wait| write!(stream, "Retry-After: {wait}\r\n"))?;
        }
        _ => {}
    }
    write!(stream, "\r\n")?;
    let cut = route.cut_first.or(route.cut_always);
    let end = cut.map_or(end, |cut| end.min(start + cut as u64));
    send(&mut stream, &route, start..end, sent)
}

/// What is asked, and all its lines.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<(Request, Vec<String>)>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return Ok(None) };
    let range = header(&lines, "range: bytes=");
    let (from, to) = match range.as_deref().and_then(|range| range.split_once('-')) {
        Some((from, to)) => (from.parse().ok(), to.parse().ok()),
        None => (None, None),
    };
    let has_token = header(&lines, "authorization:").is_some();
    Ok(Some((Request { path: path.to_owned(), from, to, has_token }, lines)))
}

fn header(lines: &[String], name: &str) -> Option<String> {
    let of = |line: &String| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned);
    lines.iter().find_map(of)
}

/// The route as it is for this answer; what is for the first one only is used up.
fn take_route(routes: &mut HashMap<String, Route>, path: &str) -> Route {
    let Some(route) = routes.get_mut(path) else {
        return Route { status: Some(404), ..Route::default() };
    };
    let mut now = route.clone();
    if let Some(left) = route.busy_first.checked_sub(1) {
        route.busy_first = left;
        now.status = Some(503);
    } else {
        route.cut_first = None;
    }
    now
}

/// The status, and where the body begins.
fn status(route: &Route, asked: &Request, lines: &[String], total: u64) -> (u16, u64) {
    let wanted = &route.needs_header;
    let is = |header: &String| lines.iter().any(|line| line.eq_ignore_ascii_case(header));
    let known = header(lines, "if-range: ");
    let is_other = known.is_some() && known != route.etag.as_ref().map(|e| e.to_ascii_lowercase());
    match (route.status, asked.from) {
        _ if !wanted.as_ref().is_none_or(is) => (401, 0),
        (Some(status), _) => (status, 0),
        (None, Some(_)) if route.refuses_ranges => (416, total),
        (None, Some(from)) if !route.no_ranges && !is_other => {
            if from >= total {
                (416, total)
            } else {
                (206, from)
            }
        }
        _ => (200, 0),
    }
}

fn send(
    stream: &mut TcpStream,
    route: &Route,
    Range { start, end }: Range<u64>,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    let known = route.body.len() as u64;
    let mut at = start;
    while at < end {
        let stop = end.min(at + (64 << 10));
        let zeros = vec![0; (stop - at.max(known).min(stop)) as usize];
        stream.write_all(&route.body[at.min(known) as usize..stop.min(known) as usize])?;
        stream.write_all(&zeros)?;
        sent.fetch_add(stop - at, Ordering::Relaxed);
        at = stop;
    }
    Ok(())
}

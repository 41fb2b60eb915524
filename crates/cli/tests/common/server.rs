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
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return Ok(()) };
    let header = |name: &str| {
        let of = |line: &String| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned);
        lines.iter().find_map(of)
    };
    let range = header("range: bytes=");
    let (from, to) = match range.as_deref().and_then(|range| range.split_once('-')) {
        Some((from, to)) => (from.parse().ok(), to.parse().ok()),
        None => (None, None),
    };
    let has_token = header("authorization:").is_some();
    log.lock().unwrap().push(Request { path: path.to_owned(), from, to, has_token });
    let route = {
        let mut routes = routes.lock().unwrap();
        let found = routes.get_mut(path).map(|route| (route.clone(), route.cut_first.take()));
        found.map(|(route, cut)| Route { cut_first: cut, ..route })
    };
    let mut stream = reader.into_inner();
    let missing = Route { status: Some(404), ..Route::default() };
    let route = route.unwrap_or(missing);
    if let Some(location) = &route.redirect {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let allowed = route
        .needs_header
        .as_ref()
        .is_none_or(|header| lines.iter().any(|line| line.eq_ignore_ascii_case(header)));
    let total = route.body.len() as u64 + route.zeros;
    let (status, start) = match (route.status, from) {
        _ if !allowed => (401, 0),
        (Some(status), _) => (status, 0),
        (None, Some(from)) if !route.no_ranges && from >= total => (416, total),
        (None, Some(from)) if !route.no_ranges => (206, from),
        _ => (200, 0),
    };
    let end = to.filter(|_| status == 206).map_or(total, |to| (to + 1).min(total));
    let length = end - start;
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\n")?;
    if !route.no_length {
        write!(stream, "Content-Length: {length}\r\n")?;
    }
    match status {
        206 => write!(stream, "Content-Range: bytes {start}-{}/{total}\r\n", end - 1)?,
        416 => write!(stream, "Content-Range: bytes */{total}\r\n")?,
        _ => {}
    }
    write!(stream, "\r\n")?;
    let end = route.cut_first.map_or(end, |cut| end.min(start + cut as u64));
    send(&mut stream, &route, start..end, sent)
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

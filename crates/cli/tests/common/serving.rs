//! `lowtide serve` on a free port, and a client that says exactly what it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Folder, lowtide, tiny};

pub const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

/// A server; it ends with the test.
pub struct Server {
    pub child: Child,
    pub port: u16,
    _folder: Folder,
}

impl Server {
    pub fn start(args: &[&str]) -> Self {
        let folder = Folder::new();
        let model = tiny::write(&folder, Some(TEMPLATE));
        let mut command = lowtide(folder.path());
        command.arg("serve").arg(&model).args(["--port", "0", "--threads", "1"]).args(args);
        if !args.contains(&"--memory") {
            command.args(["--memory", "400MB"]);
        }
        Self::run(command, folder)
    }

    /// Runs a command that serves; waits until it answers. The folder goes away with the server.
    pub fn run(mut command: Command, folder: Folder) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.nth(1).unwrap().unwrap();
        let port = address.split_whitespace().next().unwrap().rsplit(':').next().unwrap();
        let server = Self { child, port: port.parse().unwrap(), _folder: folder };
        let begun = Instant::now();
        while server.get("/health").0 != 200 {
            assert!(begun.elapsed() < Duration::from_secs(60), "never ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Sends bytes as they are; the status (0: the connection was closed without one) and the body.
    pub fn raw(&self, bytes: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // A server that refuses early closes while we still write.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    /// A counter or gauge of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").1;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
    }

    pub fn post_bytes(&self, path: &str, body: &[u8], headers: &str) -> (u16, String) {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.raw(&request)
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.post_bytes(path, body.to_string().as_bytes(), "");
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}")))
    }

    /// Still answers, so nothing before has hurt it.
    pub fn assert_well(&self) {
        let body = json!({ "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 2 });
        let (status, answer) = self.post("/v1/chat/completions", &body);
        assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(2)), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

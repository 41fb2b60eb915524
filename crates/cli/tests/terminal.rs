//! The terminal is left as it was found, whatever ends the program; and a chat without one tells by its status.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::tiny::{TEMPLATE, Tiny};
use common::{Ran, lowtide, ran};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

/// Longer than it takes on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program on a terminal of 24 rows.
struct OnTerminal {
    child: Child,
    /// The other end of its terminal.
    terminal: File,
    /// The terminal itself, which ends when all have closed it.
    slave: Option<File>,
    shown: String,
}

impl OnTerminal {
    fn start(tiny: &Tiny, arguments: &[&str]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        let slave = File::from(pair.slave);
        let stream = || Stdio::from(slave.try_clone().unwrap());
        let mut command = lowtide(tiny.folder.path());
        command.arg(arguments[0]).arg(&tiny.path).args(&arguments[1..]);
        command.env("TERM", "xterm").env("HOME", tiny.folder.path());
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        Self { child, terminal: pair.master.into(), slave: Some(slave), shown: String::new() }
    }

    /// Reads on until `wanted` is shown.
    fn wait_for(&mut self, wanted: &str) {
        let begun = Instant::now();
        let mut bytes = [0; 4096];
        while !self.shown.contains(wanted) {
            assert!(begun.elapsed() < PATIENCE, "{wanted:?} is not in {:?}", self.shown);
            let read = self.terminal.read(&mut bytes).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    /// What is shown from the signal on; what ended the program is the signal's own doing.
    fn end_by(&mut self, signal: &str) -> String {
        let before = self.shown.len();
        let kill = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(ended(&mut self.child).code(), None);
        drop(self.slave.take());
        let mut bytes = [0; 4096];
        // Once all have closed a terminal, reading from it is an error.
        while let Ok(read @ 1..) = self.terminal.read(&mut bytes) {
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        self.shown[before..].to_owned()
    }
}

/// Waits for it to end, and ends it where it does not.
fn ended(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it was sent a signal and did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this process ignores a signal, as do those that it starts (`nohup cargo test`).
fn is_ignored(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
}

#[test]
fn a_signal_that_ends_an_answer_leaves_the_terminal_whole() {
    let tiny = Tiny::new(None);
    let endless = ["run", "hello", "--ignore-eos", "--temp", "0", "--ctx", "10000000"];
    for (signal, number) in [("-TERM", 15), ("-HUP", 1)] {
        if is_ignored(number) {
            println!("{signal} is ignored here, and by what is started here: not tried");
            continue;
        }
        let mut run = OnTerminal::start(&tiny, &endless);
        // The rows above the last one scroll: the line is there.
        run.wait_for("\x1b[1;23r");
        assert!(run.end_by(signal).contains("\x1b[r\x1b[24;1H\x1b[K"), "{signal}: {:?}", run.shown);
    }
}

#[test]
fn a_signal_that_ends_a_chat_leaves_a_terminal_that_echoes() {
    let tiny = Tiny::new(Some(TEMPLATE));
    let mut chat = OnTerminal::start(&tiny, &["chat"]);
    let slave = chat.slave.as_ref().unwrap().try_clone().unwrap();
    let echoes = || tcgetattr(&slave).unwrap().local_flags.contains(LocalFlags::ECHO);
    assert!(echoes());
    chat.wait_for("leaves.");
    let begun = Instant::now();
    while echoes() {
        assert!(begun.elapsed() < PATIENCE, "no line is asked for: {:?}", chat.shown);
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill").arg(chat.child.id().to_string()).status();
    assert!(kill.unwrap().success());
    assert_eq!(ended(&mut chat.child).code(), None);
    assert!(echoes(), "what is typed into the shell is seen again");
}

/// A chat with a pipe.
fn piped(tiny: &Tiny, more: &[&str], input: &[u8]) -> Ran {
    let mut command = lowtide(tiny.folder.path());
    command.arg("chat").arg(&tiny.path).args(["--temp", "0", "-n", "4", "--ignore-eos"]);
    command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    ran(child.wait_with_output().unwrap())
}

#[test]
fn a_piped_chat_goes_on_after_a_failure_and_tells_by_its_status() {
    let tiny = Tiny::new(Some(TEMPLATE));
    let big = tiny.folder.join("big");
    std::fs::write(&big, vec![b'x'; 1 << 20]).unwrap();
    for (command, says, status) in [
        ("/mem".to_owned(), "budget", 0),
        ("/save /nowhere/talk.json".to_owned(), "cannot write", 2),
        ("/load /nowhere/talk.json".to_owned(), "cannot read", 1),
        (format!("/load {}", big.display()), "is no saved conversation", 1),
    ] {
        let talk = piped(&tiny, &[], format!("{command}\nhello\n").as_bytes());
        assert!(talk.stderr.contains(says), "{says} is not in\n{}", talk.stderr);
        assert_eq!(talk.status, status, "{command}\n{}", talk.stderr);
        assert!(!talk.stdout.is_empty(), "it was answered all the same");
    }
    let talk = piped(&tiny, &["--ctx", "20"], b"hello hello hello hello hello hello\n");
    assert_eq!(talk.status, 1, "{}", talk.stderr);
    let talk = piped(&tiny, &[], b"hello\nhel\xfflo\n");
    assert_eq!(talk.status, 2, "{}", talk.stderr);
    assert!(talk.stderr.contains("not UTF-8"), "{}", talk.stderr);
    assert_eq!(talk.stderr.matches("invalid utf-8").count(), 1, "{}", talk.stderr);
}

#[test]
fn a_context_that_ends_an_answer_is_told_and_one_beyond_the_training_too() {
    let tiny = Tiny::new(None);
    let told = |arguments: &[&str]| {
        let ran = tiny.run("run", &[&["hello", "--ignore-eos", "--temp", "0"], arguments].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        (ran.stderr.contains("is full"), ran.stderr.contains("was trained for"))
    };
    assert_eq!(told(&["--ctx", "9"]), (true, false));
    assert_eq!(told(&["--ctx", "9", "-n", "3"]), (false, false));
    assert_eq!(told(&["--ctx", "513", "-n", "3"]), (false, true));
    assert_eq!(told(&["--ctx", "9", "--json"]), (false, false));
}

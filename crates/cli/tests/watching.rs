//! Looking at a lowtide process from outside (`map --pid`, `--watch`) and from inside (`/mem`,
//! `--metrics`), against what the kernel says of it.

mod common;

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, lowtide, run, tiny};
use lowtide_bench::synth;
use serde_json::Value;

const PAGE: u64 = 4096;
const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}[assistant]{% endif %}";

/// A chat that is spoken to line by line.
struct Chat {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Chat {
    fn start(folder: &Folder, model: &Path, more: &[&str]) -> Self {
        let mut command = lowtide(folder.path());
        command.arg("chat").arg(model).args(["--temp", "0", "-n", "4", "--ignore-eos"]);
        command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Says it, and waits for the line that answers.
    fn say(&mut self, text: &str) {
        writeln!(self.input.as_mut().unwrap(), "{text}").unwrap();
        let mut line = Vec::new();
        self.output.read_until(b'\n', &mut line).unwrap();
        assert!(!line.is_empty(), "no answer");
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Ends it; what it wrote to standard error.
    fn end(mut self) -> String {
        drop(self.input.take());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }
}

/// The kernel's own figures of a process's mappings of a file: address space and `Rss` by `smaps`, and
/// pages present by the bits of `pagemap`, all in bytes.
fn kernel_says(pid: &str, path: &Path) -> (u64, u64, u64) {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut pagemap = std::fs::File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let path = path.to_str().unwrap();
    let (mut mapped, mut rss, mut present, mut ours) = (0, 0, 0, false);
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let hex = |text: &str| u64::from_str_radix(text, 16);
        if let Some((Ok(start), Ok(end))) = range.map(|(a, b)| (hex(a), hex(b))) {
            ours = line.ends_with(path);
            if ours {
                mapped += end - start;
                pagemap.seek(SeekFrom::Start(start / PAGE * 8)).unwrap();
                let mut entries = vec![0; ((end - start) / PAGE * 8) as usize];
                pagemap.read_exact(&mut entries).unwrap();
                let is_present = |entry: &&[u8; 8]| entry[7] & 0x80 != 0;
                present += entries.as_chunks().0.iter().filter(is_present).count() as u64 * PAGE;
            }
        } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| ours) {
            rss += kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
        }
    }
    (mapped, rss, present)
}

fn map_of(folder: &Folder, model: &Path, pid: &str) -> Value {
    let mut command = lowtide(folder.path());
    let ran = run(command.arg("map").arg(model).args(["--json", "--pid", pid]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Of a quiet process the three agree to the page: the map, `smaps`, `pagemap`.
#[track_caller]
fn assert_agrees(folder: &Folder, model: &Path, pid: &str) -> u64 {
    let document = map_of(folder, model, pid);
    let (mapped, rss, present) = kernel_says(pid, model);
    let totals = &document["totals"];
    assert_eq!(totals["mapped_bytes"], mapped);
    assert_eq!(totals["smaps_rss_bytes"], rss);
    assert_eq!(totals["resident_bytes"], present);
    assert_eq!(rss, present, "the kernel agrees with itself");
    rss
}

#[test]
fn a_chat_is_mapped_to_the_page_while_it_waits() {
    let folder = Folder::new();
    let model = tiny::write(&folder, Some(TEMPLATE));
    let mut chat = Chat::start(&folder, &model, &[]);
    chat.say("hello");
    let resident = assert_agrees(&folder, &model, &chat.pid());
    let bytes = std::fs::metadata(&model).unwrap().len();
    assert!(resident > bytes / 2, "{resident} of {bytes}: an answer has used all weights");
    chat.end();
}

#[test]
fn a_watch_follows_a_process_and_ends_with_it() {
    let folder = Folder::new();
    let model = tiny::write(&folder, Some(TEMPLATE));
    let mut chat = Chat::start(&folder, &model, &[]);
    chat.say("hello");
    let mut command = lowtide(folder.path());
    command.arg("map").arg(&model).args(["--watch", "--pid", &chat.pid()]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_head = |line: &String| line.contains("tiny.gguf") && line.contains("tensors");
    let mut first = Vec::new();
    // The second head: it has looked again.
    while first.iter().filter(|line| is_head(line)).count() < 2 {
        first.push(lines.next().expect("it goes on while the process lives"));
    }
    let (_, rss, _) = kernel_says(&chat.pid(), &model);
    assert!(rss > 0);
    chat.end();
    let begun = Instant::now();
    while lines.next().is_some() {}
    assert!(watch.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(20), "it ends when the process has");
}

#[test]
fn a_watch_that_is_stopped_says_so() {
    let folder = Folder::new();
    let model = tiny::write(&folder, Some(TEMPLATE));
    let mut command = lowtide(folder.path());
    command.arg("map").arg(&model).arg("--watch").stdout(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let mut kill = Command::new("kill");
    assert!(kill.args(["-INT", &watch.id().to_string()]).status().unwrap().success());
    while lines.next().is_some() {}
    assert_eq!(watch.wait().unwrap().code(), Some(130));
}

#[test]
fn a_chat_tells_its_memory_and_keeps_metrics_over_all_answers() {
    let folder = Folder::new();
    let model = tiny::write(&folder, Some(TEMPLATE));
    let path = folder.join("m.jsonl");
    let mut chat = Chat::start(&folder, &model, &["--metrics", path.to_str().unwrap()]);
    chat.say("hello");
    chat.say("hello again");
    writeln!(chat.input.as_mut().unwrap(), "/mem").unwrap();
    let said = chat.end();
    for wanted in ["file", "memory", "budget", "page tables", "minor", "resident"] {
        assert!(said.contains(wanted), "{wanted} is missing in:\n{said}");
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8, "{text}");
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["token"], i);
        assert_eq!(line["phase"], if i % 4 == 0 { "prompt" } else { "answer" });
        assert!(line["id"].is_u64(), "{line}");
    }
    // The second answer goes on from the first: its session holds more.
    let position = |i: usize| lines[i]["position"].as_u64().unwrap();
    assert!(position(4) > position(3) + 1, "{text}");
}

/// A model that does not fit is read once for each batch of the prompt: its one line tells all of it.
#[test]
fn the_metrics_of_a_prompt_cover_all_of_its_batches() {
    let folder = Folder::new();
    let model = folder.join("experts.gguf");
    let mut spec = synth::Spec::named("qwen3moe-tiny", "f32").unwrap();
    spec.shape.layers = 12;
    synth::write_file(&spec, &model, &mut |_| {}).unwrap();
    let floor = floor(&folder, &model, "256");
    let (memory, metrics) = ((floor + 16_000_000).to_string(), folder.join("m.jsonl"));
    let ids: Vec<String> = (1..=200).map(|id| id.to_string()).collect();
    let mut command = lowtide(folder.path());
    command.arg("run").arg(&model).args(["--ids", &ids.join(","), "--temp", "0", "--ignore-eos"]);
    command.args(["--max-tokens", "3", "--ctx", "256", "--memory", &memory, "--json"]);
    let ran = run(command.arg("--metrics").arg(&metrics));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let text = std::fs::read_to_string(&metrics).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let sum = |key: &str| lines.iter().map(|line| line[key].as_f64().unwrap()).sum::<f64>();
    let io = |key: &str| document["io"][key].as_f64().unwrap();
    assert_eq!(sum("read_bytes"), io("read_bytes"));
    assert!((sum("wait_s") - io("wait_s")).abs() < 1e-6, "{} {}", sum("wait_s"), io("wait_s"));
    assert!(io("read_bytes") > 0.0 && io("wait_s") > 0.0, "{document}");
}

fn floor(folder: &Folder, model: &PathBuf, context: &str) -> u64 {
    let mut command = lowtide(folder.path());
    let ran = run(command.arg("fit").arg(model).args(["--ctx", context, "--json"]));
    serde_json::from_str::<Value>(&ran.stdout).unwrap()["floor_bytes"].as_u64().unwrap()
}

/// Cached experts lie in buffers of the process, where no page table shows them as the file's: the map
/// shows them all the same.
#[test]
fn experts_in_the_cache_are_on_the_map() {
    let folder = Folder::new();
    let model = folder.join("experts.gguf");
    let mut spec = synth::Spec::named("qwen3moe-tiny", "f32").unwrap();
    spec.shape.layers = 12;
    synth::write_file(&spec, &model, &mut |_| {}).unwrap();
    let memory = (floor(&folder, &model, "32768") + 40_000_000).to_string();
    let mut command = lowtide(folder.path());
    command.arg("run").arg(&model).args(["--ids", "1,2,3", "--temp", "1", "--ignore-eos"]);
    // Room for a context that outlasts the look.
    command.args(["--max-tokens", "30000", "--ctx", "32768", "--memory", &memory]);
    command.args(["--metrics", folder.join("m.jsonl").to_str().unwrap()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id().to_string();
    let tokens = || std::fs::read_to_string(folder.join("m.jsonl")).unwrap_or_default();
    let begun = Instant::now();
    while tokens().lines().count() < 20 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no tokens");
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    // The list is written twice a second; one that was stopped in the middle of that is none.
    let document = loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "no list");
        signal("-CONT");
        std::thread::sleep(Duration::from_millis(700));
        signal("-STOP");
        let document = map_of(&folder, &model, &pid);
        if document["totals"]["buffered_bytes"].as_u64().is_some_and(|bytes| bytes > 0) {
            break document;
        }
    };
    signal("-CONT");
    child.kill().unwrap();
    child.wait().unwrap();
    let buffered = document["totals"]["buffered_bytes"].as_u64().unwrap();
    let tensors = document["tensors"].as_array().unwrap();
    let of = |kind: &str, key: &str| -> u64 {
        let of_kind = tensors.iter().filter(|t| t["kind"].as_str().unwrap().starts_with(kind));
        of_kind.map(|t| t[key].as_u64().unwrap()).sum()
    };
    assert_eq!(of("", "buffered_bytes"), buffered, "every byte belongs to a tensor");
    let experts = of("experts", "buffered_bytes");
    assert!(experts > of("experts", "bytes") / 30, "{experts} of {}", of("experts", "bytes"));
    assert!(experts > 4 * of("experts", "resident_bytes"), "they are not in the mapping");
    assert!(buffered < memory.parse().unwrap());
}

/// Any program that maps the model can be looked at: llama.cpp\'s, where `LOWTIDE_TEST_LLAMA` names
/// its `llama-completion`.
#[test]
fn llama_cpp_is_mapped_to_the_page() {
    let Some(llama) = std::env::var_os("LOWTIDE_TEST_LLAMA") else { return };
    let models = std::env::var_os("LOWTIDE_TEST_MODELS").expect("with it goes a folder of models");
    let model = Path::new(&models).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let folder = Folder::new();
    let mut child = Command::new(llama)
        .arg("-m")
        .arg(&model)
        .args(["--no-repack", "-n", "4000", "-c", "8192", "--temp", "0", "--ignore-eos"])
        .args(["-p", "The sea"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    // Some words of its answer, and it is stopped, so that it stands still while two look at it.
    let mut some = [0; 64];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    std::thread::sleep(Duration::from_millis(300));
    let resident = assert_agrees(&folder, &model, &pid);
    signal("-CONT");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(resident > 60 << 20, "{resident}: an answer has used nearly all weights");
}

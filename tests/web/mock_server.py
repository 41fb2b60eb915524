#!/usr/bin/env python3
"""A stand-in for `lowtide serve`: the page's files and the interface they use, with no model behind it.

    mock_server.py [--port N] [--layout moe|dense|huge|fits] [--key KEY] [--loading SECONDS] [--tokens-per-s X]

What an answer looks like depends on words in the last message; see `script_for`. `POST /mock` queues
failures for the next requests: {"next": [{"status": 429, "retry_after": 1}]}. `GET /mock` returns the bodies received.
"""

import argparse
import base64
import json
import math
import mimetypes
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "crates" / "server" / "web"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MB = 1_000_000
GB = 1_000_000_000

KITCHEN = (Path(__file__).parent / "kitchen.md").read_text(encoding="utf-8")


def script_for(prompt):
    """(thoughts, answer, end) for a prompt."""
    text = prompt.lower()
    if "kitchen sink" in text:
        return "", KITCHEN, "stop"
    if "hostile" in text:
        return "", HOSTILE, "stop"
    if "think" in text:
        return "The person wants me to think. First this, then **that**.\n\nSo be it.", "I have thought about it.", "stop"
    if "long" in text:
        parts = [f"Paragraph {n} of a long answer, with enough words to fill a line or two on the page." for n in range(1, 61)]
        return "", "\n\n".join(parts), "stop"
    if "limit" in text:
        return "", "This answer ends in the middle of", "length"
    if "memory mapping" in text:
        return "", MAPPING, "stop"
    return "", f"You said: {prompt}\n\nThat was answer number {Mock.answers}.", "stop"


HOSTILE = """<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>
[click](javascript:window.pwned=1) ![pic](https://example.invalid/a.png) [text](https://example.invalid/path)
""" + "*a **b _c `" * 400 + "[" * 3000 + "> " * 3000

MAPPING = """A memory mapping makes a file **look like memory**. Nothing is copied when it is set up; the system only notes which \
addresses stand for which part of the file.

### What happens on the first touch

1. The program reads an address of the mapping.
2. The processor finds no page there and asks the system: a *page fault*.
3. The system reads that page from the file, and the program goes on as if nothing had happened.

| | `read()` | `mmap()` |
|---|---|---|
| Copies | one, into your buffer | none |
| Reads from disk | when you call | when you touch |
| An I/O error is | a return value | a signal |

```rust
let file = File::open("model.gguf")?;
// Safe as long as nobody truncates the file below us.
let weights = unsafe { Mmap::map(&file)? };
let first = weights[0]; // the page is read here, not above
```

So the interesting question is not *whether* to map a file but **who decides which pages stay**."""


class Model:
    """The file's layout and how its tiles move."""

    def __init__(self, kind):
        self.kind = kind
        build = {"moe": self._moe, "dense": self._dense, "huge": self._huge, "fits": self._fits}[kind]
        self.rows = []
        self.at = 40_000_000
        self.name, self.architecture, self.layers, self.budget, pinned_share = build()
        self.file_bytes = self.at
        self.tiles = [tile for row in self.rows for tile in row["tiles"]]
        rng = random.Random(7)
        if pinned_share >= 1:
            keep = lambda row, tile: True
        elif kind == "moe":
            keep = lambda row, tile: row["kind"] != "experts"
        else:
            keep = lambda row, tile: rng.random() < pinned_share
        for row in self.rows:
            for tile in row["tiles"]:
                tile[2] = 1 if keep(row, tile) else 0
        self.resident = [tile[2] == 1 for tile in self.tiles]
        self.streamed = [i for i, tile in enumerate(self.tiles) if not tile[2]]
        if kind == "moe":
            for tile in rng.sample(self.streamed, len(self.streamed) // 4):
                self.resident[tile] = True
        self.experts = []
        start = 0
        for row in self.rows:
            span = range(start, start + len(row["tiles"]))
            if row["kind"] == "experts":
                self.experts.append(list(span))
            start += len(row["tiles"])

    def _row(self, layer, name, kind, count, size):
        tiles = []
        for _ in range(count):
            tiles.append([self.at, size, 0])
            self.at += size
        self.rows.append({"layer": layer, "name": name, "kind": kind, "tiles": tiles})

    def _moe(self):
        self._row(None, "token_embd.weight", "embedding", 45, 4 * MB)
        for layer in range(48):
            self._row(layer, f"blk.{layer}.attn", "attention", 8, 2 * MB)
            self._row(layer, f"blk.{layer}.ffn_gate_inp", "router", 1, MB)
            self._row(layer, f"blk.{layer}.experts", "experts", 88, 4 * MB)
        self._row(None, "output.weight", "head", 55, 4 * MB)
        return "Qwen3-30B-A3B-Q4_K_M", "qwen3moe", 48, 6.8 * GB, 0

    def _dense(self):
        self._row(None, "token_embd.weight", "embedding", 60, 6 * MB)
        for layer in range(64):
            self._row(layer, f"blk.{layer}", "layer", 46, 6 * MB)
        self._row(None, "output.weight", "head", 80, 6 * MB)
        return "Qwen3-32B-Q4_K_M", "qwen3", 64, 6.8 * GB, 0.3

    def _huge(self):
        for layer in range(100):
            self._row(layer, f"blk.{layer}", "layer", 50, 8 * MB)
        return "Five-thousand-tiles-Q4_0", "llama", 100, 16 * GB, 0.35

    def _fits(self):
        self._row(None, "token_embd.weight", "embedding", 8, 4 * MB)
        for layer in range(30):
            self._row(layer, f"blk.{layer}", "layer", 2, 2 * MB)
        return "SmolLM2-135M-Instruct.Q4_1", "llama", 30, 0.5 * GB, 1

    def props(self):
        total = int(self.budget)
        pinned = sum(tile[1] for tile in self.tiles if tile[2])
        kv, scratch, vocab, reserve = int(0.05 * total), int(0.03 * total), int(0.006 * total), int(0.02 * total)
        rest = max(total - pinned - kv - scratch - vocab - reserve, 0)
        cache = rest if self.kind == "moe" else 0
        ring = rest if self.kind in ("dense", "huge") else 0
        return {
            "model": self.name, "architecture": self.architecture, "file_bytes": self.file_bytes, "layers": self.layers, "context": 8192,
            "budget": {
                "total_bytes": total, "pinned_bytes": pinned, "ring_bytes": ring, "expert_cache_bytes": cache, "kv_bytes": kv,
                "scratch_bytes": scratch, "vocab_bytes": vocab, "reserve_bytes": reserve,
            },
            "sampling": {"temperature": 0.7, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
            "version": "0.1.0-mock",
        }

    def step(self, clock):
        """Moves the tiles as an answer would; returns (reading, used)."""
        count = len(self.tiles)
        if not self.streamed:
            first = int(clock * 400) % count
            return [], [first, min(first + 6, count - 1)]
        if self.kind == "moe":
            rng = random.Random(int(clock * 1000))
            first = int(clock * 60) % len(self.experts)
            # The layers since the last look: some experts are there, the others are read and take the place of others.
            for step in range(12):
                span = self.experts[(first - step) % len(self.experts)]
                favourites = random.Random(span[0]).sample(span, 40)
                for tile in rng.sample(favourites, 9) + rng.sample(span, 2):
                    self.resident[tile] = True
            cached = [i for i in self.streamed if self.resident[i]]
            for tile in rng.sample(cached, max(len(cached) - len(self.streamed) // 4, 0)):
                self.resident[tile] = False
            ahead = self.experts[(first + 1) % len(self.experts)]
            span = self.experts[first]
            return sorted(rng.sample(span, 4)) + sorted(rng.sample(ahead, 6)), [max(span[0] - 9, 0), span[-1]]
        at = int(clock * len(self.streamed) / 9) % len(self.streamed)
        ring = max(len(self.streamed) // 12, 4)
        for tile in self.streamed:
            self.resident[tile] = False
        for step in range(ring):
            self.resident[self.streamed[(at + step) % len(self.streamed)]] = True
        reading = [self.streamed[(at + ring + step) % len(self.streamed)] for step in range(10)]
        used = self.streamed[at]
        return reading, [max(used - 12, 0), used]


class Mock:
    """All state of the server."""

    lock = threading.Lock()
    answers = 0
    running = 0
    next = []
    bodies = []
    read_total = 0

    def __init__(self, options):
        self.options = options
        self.model = Model(options.layout)
        self.started = time.monotonic()
        self.clock = 0.0
        self.ticked = time.monotonic()

    def loading(self):
        return time.monotonic() - self.started < self.options.loading

    def event(self):
        with self.lock:
            now = time.monotonic()
            busy = Mock.running > 0
            reading, used = [], None
            if busy:
                self.clock += min(now - self.ticked, 0.5)
                reading, used = self.model.step(self.clock)
            self.ticked = now
            bits = bytearray((len(self.model.resident) + 7) // 8)
            for tile, resident in enumerate(self.model.resident):
                if resident:
                    bits[tile >> 3] |= 1 << (tile & 7)
            budget = int(self.model.budget)
            wobble = math.sin(now / 3)
            fits = not self.model.streamed
            return {
                "t_ms": int((now - self.started) * 1000),
                "tok_s": round(5.4 + 0.8 * wobble, 2) if busy else 0.0,
                "disk_share": 0.0 if fits or not busy else round(0.42 + 0.2 * math.sin(now / 5), 3),
                "read_bytes_s": 0 if fits or not busy else int(2.1 * GB + 0.3 * GB * wobble),
                "rss_bytes": int(budget * (0.93 + 0.01 * wobble)),
                "charge_bytes": int(budget * (0.97 + 0.005 * wobble)),
                "budget_bytes": budget,
                "page_table_bytes": 12_345_344,
                "busy": busy,
                "queue": 0,
                "resident": base64.b64encode(bytes(bits)).decode(),
                "reading": reading,
                "used": used,
            }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mock = None

    def log_message(self, *_):
        pass

    def send(self, status, body, kind="application/json", headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status, message, headers=()):
        self.send(status, {"error": {"message": message, "type": "error", "code": status}}, headers=headers)

    def refused(self):
        if self.mock.options.key and self.headers.get("Authorization") != f"Bearer {self.mock.options.key}":
            self.fail(401, "a valid API key is required")
            return True
        if self.mock.loading():
            self.fail(503, "loading the model")
            return True
        return False

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/":
            return self.file("index.html")
        if path.startswith("/assets/"):
            return self.file(path.removeprefix("/assets/"))
        if path == "/mock":
            return self.send(200, {"bodies": Mock.bodies, "running": Mock.running})
        if self.refused():
            return None
        if path == "/props":
            return self.send(200, self.mock.model.props())
        if path == "/v1/models":
            return self.send(200, {"object": "list", "data": [{"id": self.mock.model.name, "object": "model"}]})
        if path == "/tide/layout":
            return self.send(200, {"file_bytes": self.mock.model.file_bytes, "rows": self.mock.model.rows})
        if path == "/tide":
            return self.tide()
        return self.fail(404, "no such endpoint")

    def file(self, name):
        path = PAGE / name
        if "/" in name or not path.is_file():
            return self.fail(404, "no such file")
        kind = {".js": "text/javascript; charset=utf-8"}.get(path.suffix) or mimetypes.guess_type(name)[0]
        return self.send(200, path.read_bytes(), kind, [("Content-Security-Policy", POLICY), ("Cache-Control", "no-cache")])

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def say(self, value):
        self.wfile.write(f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def tide(self):
        self.stream()
        last = None
        try:
            while True:
                event = self.mock.event()
                self.say(event)
                last = time.monotonic()
                while Mock.running == 0 and time.monotonic() - last < 2:
                    time.sleep(0.05)
                time.sleep(0.2)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/mock":
            Mock.next += json.loads(body).get("next", [])
            return self.send(200, {})
        if self.refused():
            return None
        if self.path != "/v1/chat/completions":
            return self.fail(404, "no such endpoint")
        request = json.loads(body)
        Mock.bodies.append(request)
        failure = Mock.next.pop(0) if Mock.next else {}
        if failure.get("status"):
            headers = [("Retry-After", str(failure["retry_after"]))] if "retry_after" in failure else []
            return self.fail(failure["status"], failure.get("message", "as the test wishes"), headers)
        return self.answer(request, failure)

    def answer(self, request, failure):
        with Mock.lock:
            Mock.running += 1
            Mock.answers += 1
        try:
            self.stream()
            self.tell(request, failure)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with Mock.lock:
                Mock.running -= 1

    def tell(self, request, failure):
        prompt = request["messages"][-1]["content"]
        base = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": int(time.time()), "model": self.mock.model.name}
        chunk = lambda delta, end=None, **more: self.say({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": end}], **more})
        started = time.monotonic()
        slow = "slow prefill" in prompt
        total = 2048 if slow else 64
        chunk({"role": "assistant", "content": ""})
        for processed in range(256, total + 1, 256) if slow else ():
            self.say({**base, "choices": [], "prompt_progress": {"processed": processed, "total": total}})
            self.wfile.write(b": ping\n\n")
            time.sleep(0.35)
        prompt_s = time.monotonic() - started + 0.05
        thoughts, text, end = script_for(prompt)
        count = 0
        first = time.monotonic()
        for field, source in (("reasoning_content", thoughts), ("content", text)):
            for at in range(0, len(source), 4):
                chunk({field: source[at : at + 4]})
                count += 1
                if failure.get("cut_after") == count:
                    return
                if failure.get("error_after") == count:
                    return self.say({"error": {"message": "the file was truncated: model_fault", "code": 500}})
                time.sleep(1 / self.mock.options.tokens_per_s)
        took = time.monotonic() - first
        timings = {
            "prompt_n": total, "prompt_ms": prompt_s * 1000, "prompt_per_second": total / prompt_s,
            "predicted_n": count, "predicted_ms": took * 1000, "predicted_per_second": count / max(took, 1e-3),
        }
        chunk({}, end)
        usage = {"prompt_tokens": total, "completion_tokens": count, "total_tokens": total + count, "prompt_tokens_details": {"cached_tokens": 0}}
        self.say({**base, "choices": [], "usage": usage, "timings": timings})
        self.say("[DONE]")
        return None


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--layout", choices=["moe", "dense", "huge", "fits"], default="moe")
    parser.add_argument("--key", default="")
    parser.add_argument("--loading", type=float, default=0)
    parser.add_argument("--tokens-per-s", type=float, default=120)
    options = parser.parse_args()
    Handler.mock = Mock(options)
    server = Server(("127.0.0.1", options.port), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

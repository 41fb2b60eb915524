"""Tokens per second of all clients together, beside llama-server on the same file: A B A B in one run."""

import argparse
import json
import os
import subprocess
import threading
import time
import urllib.request

from common import MODEL, Server


def measure(base, clients, seconds, tokens=64):
    done, lock = [0], threading.Lock()
    end = time.monotonic() + seconds
    begun = time.monotonic()

    def client(number):
        while time.monotonic() < end:
            body = {"messages": [{"role": "user", "content": f"Client {number}: tell me a story."}], "max_tokens": tokens,
                    "temperature": 0, "ignore_eos": True, "stream": False}
            request = urllib.request.Request(base + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=300) as response:
                made = json.load(response)["usage"]["completion_tokens"]
            with lock:
                done[0] += made

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return done[0] / (time.monotonic() - begun)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER"))
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    port = 18099
    command = [options.llama_server, "-m", MODEL, "--port", str(port), "-c", "16384", "-np", "16", "-t", "2"]
    other = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with Server("--ctx", "1024", "--threads", "2") as server:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.2)
            bases = {"lowtide": server.base, "llama-server": f"http://127.0.0.1:{port}"}
            for base in bases.values():
                measure(base, 1, 2)
            for clients in (1, 4, 16):
                rates = {name: [] for name in bases}
                for _ in range(2):
                    for name, base in bases.items():
                        rates[name].append(measure(base, clients, options.seconds))
                ours, theirs = (sum(r) / len(r) for r in rates.values())
                print(f"{clients} clients: lowtide {ours:.1f} tokens/s {[round(r, 1) for r in rates['lowtide']]}, "
                      f"llama-server {theirs:.1f} {[round(r, 1) for r in rates['llama-server']]}: ratio {ours / theirs:.2f}", flush=True)
    finally:
        other.kill()


if __name__ == "__main__":
    main()

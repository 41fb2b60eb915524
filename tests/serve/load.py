"""Many clients, leaving clients, slow clients, and stops: `load.py crowd|leave|stop|slow|share|all [--seconds N]`."""

import argparse
import json
import multiprocessing
import os
import random
import socket
import threading
import time

from common import MODEL, Group, Server, evict, percentile

BUDGET = 1_000_000_000
ARGS = ("--memory", str(BUDGET), "--ctx", "1024")


def chat_body(tokens, stream=False, text="Count to ten."):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": stream, "ignore_eos": True}


def crowd(seconds, budget, parallel, clients=64):
    """So many clients at once: what is accepted is answered, the rest is told 429 with Retry-After. As root the server has
    a control group whose limit is the budget: nothing may be killed, and the charge never needs the limit to hold it."""
    counts, wrong, lock = {}, [], threading.Lock()
    group = Group(budget) if os.geteuid() == 0 else None
    args = ("--memory", str(budget), "--ctx", "1024", *(("--parallel", str(parallel)) if parallel else ()))
    evict(MODEL)
    with Server(*args, group=group) as server:
        props = json.loads(server.request("GET", "/props")[2])
        end = time.monotonic() + seconds

        def client(number):
            while time.monotonic() < end:
                body = chat_body(16, text=f"Client {number} counts.") | {"user": f"u{number}"}
                status, headers, data = server.request("POST", "/v1/chat/completions", body, timeout=300)
                with lock:
                    counts[status] = counts.get(status, 0) + 1
                    if status == 200 and json.loads(data)["usage"]["completion_tokens"] != 16:
                        wrong.append(data)
                    if status not in (200, 429) or (status == 429 and "retry-after" not in headers):
                        wrong.append((status, data))
                if status == 429:
                    time.sleep(0.2 + random.random() * 0.3)

        peak = 0
        threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
        [thread.start() for thread in threads]
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, server.rss_bytes())
            time.sleep(0.5)
        assert not wrong, wrong[:3]
        assert peak <= budget, f"{peak} bytes resident, the budget is {budget}"
        assert server.metric("lowtide_requests_waiting") == 0 == server.metric("lowtide_requests_running")
        tokens = server.metric("lowtide_generated_tokens_total")
    charged = "no control group of its own (not root)"
    if group:
        charged = f"charged at most {group.peak_bytes() / 1e6:.0f} MB, limit hit {group.hits()} times, {group.kills()} kills"
        kills, over = group.kills(), group.peak_bytes() > budget
        group.close()
        assert kills == 0 and not over, charged
    print(f"crowd: {clients} clients, {seconds} s, {props['parallel']} answers together: {counts}, {tokens / seconds:.0f} tokens/s; "
          f"of {budget / 1e6:.0f} MB: resident at most {peak / 1e6:.0f} MB, {charged}", flush=True)


def leave(times=1000):
    """Clients that leave at any moment: every slot is free again, others' answers are whole."""
    freed = []
    with Server(*ARGS) as server:
        keeper_ok = []
        done = threading.Event()

        def keeper():
            while not done.is_set():
                status, _, data = server.request("POST", "/v1/chat/completions", chat_body(8) | {"user": "keeper"}, timeout=300)
                if status == 200:
                    keeper_ok.append(json.loads(data)["usage"]["completion_tokens"] == 8)

        thread = threading.Thread(target=keeper)
        thread.start()
        for number in range(times):
            stream = number % 2 == 0
            body = json.dumps(chat_body(900, stream, text="word " * random.randrange(1, 400))).encode()
            with socket.create_connection((server.host, server.port)) as client:
                client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\n\r\n" % len(body) + body)
                time.sleep(random.random() * 0.12)
        done.set()
        thread.join()
        for _ in range(20):
            with socket.create_connection((server.host, server.port)) as client:
                body = json.dumps(chat_body(900, True)).encode()
                client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\n\r\n" % len(body) + body)
                while server.metric("lowtide_requests_running") == 0:
                    pass
            left = time.monotonic()
            while server.metric("lowtide_requests_running") > 0:
                assert time.monotonic() - left < 5, "a slot was never freed"
                time.sleep(0.005)
            freed.append((time.monotonic() - left) * 1e3)
        assert server.metric("lowtide_requests_waiting") == 0
        assert keeper_ok and all(keeper_ok)
        assert max(freed) < 250, freed
    print(f"leave: {times} clients left, {len(keeper_ok)} answers of another were whole; "
          f"slot free after {percentile(freed, 0.5):.0f} ms (median), {max(freed):.0f} ms (worst of 20)")


def stop(times=20, clients=6):
    """SIGTERM while answers are being made and wait: all are delivered whole, new ones are told 503."""
    answered = refused = 0
    for _ in range(times):
        server = Server(*ARGS)
        results, lock = [], threading.Lock()

        def client(number):
            status, _, data = server.request("POST", "/v1/chat/completions", chat_body(24, number % 2 == 0), timeout=120)
            with lock:
                results.append((status, data))

        threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
        [thread.start() for thread in threads]
        deadline = time.monotonic() + 60
        while server.metric("lowtide_requests_running") + server.metric("lowtide_requests_waiting") < clients:
            if len(results) or time.monotonic() > deadline:
                break
        expected = int(server.metric("lowtide_requests_running") + server.metric("lowtide_requests_waiting"))
        server.process.terminate()
        try:
            while True:
                status, *_ = server.request("POST", "/v1/chat/completions", chat_body(1))
                if status == 503:
                    refused += 1
                    server.process.terminate()  # again: it changes nothing
                    break
        except OSError:
            pass
        assert server.process.wait(120) == 0
        [thread.join() for thread in threads]
        whole = [data for status, data in results if status == 200 and (b"[DONE]" in data or b'"usage"' in data)]
        assert len(whole) >= expected and len(results) == clients, (expected, results)
        answered += len(whole)
    print(f"stop: SIGTERM {times} times, {answered} answers under way were delivered whole, {refused} late ones told 503")


def first_tokens(host, port, times):
    """Seconds to the first token of so many requests, one after the other."""
    seconds = []
    for number in range(times):
        body = json.dumps(chat_body(2, True, text=f"Number {number} says hello to everyone here today.")).encode()
        with socket.create_connection((host, port)) as client:
            begun = time.monotonic()
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(body) + body)
            data = b""
            while b'"content":"' not in data.replace(b'"content":""', b""):
                piece = client.recv(65536)
                assert piece, data
                data += piece
            seconds.append(time.monotonic() - begun)
    return seconds


def slow(count=2000, times=300):
    """Clients that send a byte a second: others' first tokens come as fast, and the slow ones are reaped."""
    # Whoever measures has a process of its own: it must not wait for the slow clients' turn in this one.
    with multiprocessing.Pool(1) as pool, Server("--memory", str(2 * BUDGET), "--ctx", "1024") as server:
        measure = lambda times: pool.apply(first_tokens, (server.host, server.port, times))
        measure(20)
        idle = measure(times)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n"
        open_clients, opened, gone = {}, {}, {}
        for number in range(count):
            client = socket.create_connection((server.host, server.port))
            client.setblocking(False)
            # Half of them are slow in the head, half in the body.
            client.send(head if number % 2 else head[:20])
            open_clients[number], opened[number] = client, time.monotonic()
        done = threading.Event()

        def drip():
            # Each client has its own moment of the second, as clients do that know nothing of each other.
            begun, turn = time.monotonic(), 0
            while not done.is_set() and len(gone) < count:
                due = begun + turn / count
                time.sleep(max(0, due - time.monotonic()))
                number = turn % count
                turn += 1
                if number in gone:
                    continue
                try:
                    open_clients[number].send(b"x")
                except OSError:
                    gone[number] = time.monotonic() - opened[number]

        thread = threading.Thread(target=drip)
        thread.start()
        during = measure(times)
        held = server.metric("lowtide_connections")
        deadline = time.monotonic() + 40
        while len(gone) < count and time.monotonic() < deadline:
            time.sleep(0.2)
        done.set()
        thread.join()
        [client.close() for client in open_clients.values()]
        assert len(gone) == count, f"{count - len(gone)} slow clients were never reaped"
        worst = max(gone.values())
        assert held > count, f"only {held:.0f} connections were open"
        ratio = percentile(during, 0.99) / percentile(idle, 0.99)
        print(f"slow: {count} slow clients ({held:.0f} connections open after the measurement): first token p50 "
              f"{percentile(during, .5) * 1e3:.1f} ms, p99 {percentile(during, .99) * 1e3:.1f} ms; idle "
              f"{percentile(idle, .5) * 1e3:.1f}, {percentile(idle, .99) * 1e3:.1f} ms: ratio of p99 {ratio:.2f}; "
              f"all reaped within {worst:.0f} s", flush=True)
        assert worst < 30, worst
        return ratio


def share(model, memory, clients=4, tokens=8):
    """A model larger than its budget: tokens a second of several clients, one answer at a time and all together, A B A B."""
    rates = {1: [], clients: []}
    for parallel in list(rates) * 2:
        evict(model)
        group = Group(memory) if os.geteuid() == 0 else None
        with Server("--memory", str(memory), "--ctx", "256", "--parallel", str(parallel), model=model, group=group) as server:
            body = lambda number: {"prompt": f"Client {number} tells", "max_tokens": tokens, "ignore_eos": True, "user": f"u{number}"}
            threads = [threading.Thread(target=lambda n=n: server.request("POST", "/v1/completions", body(n), timeout=600)) for n in range(clients)]
            before, begun = server.metric("lowtide_read_bytes_total"), time.monotonic()
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            seconds = time.monotonic() - begun
            made = server.metric("lowtide_generated_tokens_total")
            read = server.metric("lowtide_read_bytes_total") - before
            assert made == clients * tokens, made
        rates[parallel].append(made / seconds)
        charged = f", charged at most {group.peak_bytes() / 1e6:.0f} MB" if group else ""
        group and group.close()
        print(f"share: {clients} clients, {parallel} answers together: {made / seconds:.2f} tokens/s, {read / made / 1e6:.0f} MB read a token{charged}", flush=True)
    one, all_ = (sum(r) / len(r) for r in rates.values())
    print(f"share: {all_ / one:.2f} times the tokens a second")
    assert all_ > one


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["crowd", "leave", "stop", "slow", "share", "all"])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--memory", type=int, default=BUDGET)
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--times", type=int, default=1000)
    options = parser.parse_args()
    if options.what in ("crowd", "all"):
        crowd(options.seconds, options.memory, options.parallel)
    if options.what == "share":
        share(options.model, options.memory)
    if options.what in ("leave", "all"):
        leave(options.times)
    if options.what in ("stop", "all"):
        stop()
    if options.what in ("slow", "all"):
        slow()


if __name__ == "__main__":
    main()

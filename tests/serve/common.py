"""Starting and stopping `lowtide serve`, for the suites beside this file."""

import http.client
import json
import os
import re
import signal
import subprocess
import time

BINARY = os.environ["LOWTIDE_BINARY"]
MODEL = os.environ["LOWTIDE_MODEL"]


class Group:
    """A memory control group of its own for a server, with a limit: version 1 or 2, as root."""

    def __init__(self, limit):
        self.v1 = os.path.isdir("/sys/fs/cgroup/memory")
        self.path = f"/sys/fs/cgroup/{'memory/' if self.v1 else ''}lowtide-test-{os.getpid()}"
        os.mkdir(self.path)
        self.write("memory.limit_in_bytes" if self.v1 else "memory.max", limit)

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as file:
            file.write(str(value))

    def read(self, name):
        with open(f"{self.path}/{name}") as file:
            return file.read()

    def enter(self):
        self.write("cgroup.procs", os.getpid())

    def event(self, name, key):
        return int(re.search(rf"^{key} (\d+)$", self.read(name), re.M)[1])

    def peak_bytes(self):
        return int(self.read("memory.max_usage_in_bytes" if self.v1 else "memory.peak"))

    def hits(self):
        return int(self.read("memory.failcnt")) if self.v1 else self.event("memory.events", "max")

    def kills(self):
        return self.event("memory.oom_control" if self.v1 else "memory.events", "oom_kill")

    def close(self):
        os.rmdir(self.path)


def evict(path):
    """The file leaves the page cache, so that whoever reads it next is charged for it."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Server:
    """A server on a free port; a context manager that stops it with SIGTERM and checks its status."""

    def __init__(self, *args, model=MODEL, group=None):
        command = [BINARY, "serve", model, "--port", "0", *args]
        enter = group.enter if group else None
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=enter)
        head = [self.process.stdout.readline() for _ in range(3)]
        found = re.search(r"http://([\d.]+):(\d+)", "".join(head))
        if not found:
            raise RuntimeError(self.process.stderr.read())
        self.host, self.port = found[1], int(found[2])
        self.base = f"http://{self.host}:{self.port}"
        deadline = time.monotonic() + 120
        while self.request("GET", "/health")[0] != 200:
            assert time.monotonic() < deadline, "never ready"
            time.sleep(0.05)

    def request(self, method, path, body=None, timeout=120, headers=None):
        """Status, headers and body of one request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            kind = {"content-type": "application/json"} if data is not None else {}
            connection.request(method, path, data, {**kind, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def metric(self, name):
        text = self.request("GET", "/metrics")[2].decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])

    def rss_bytes(self, key="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"{key}:\s+(\d+) kB", status.read())[1]) * 1024

    def stop(self, timeout=90):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        assert status == 0, f"status {status}: {self.process.stderr.read()}"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.process.kill()
            print(self.process.stderr.read())


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]

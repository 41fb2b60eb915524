"""schemathesis against /openapi.json: generated requests, valid ones and others; no 5xx, no break of the schema.

The model is a synthetic one of a few layers: what is tested is the server, and each case takes milliseconds.
"""

import re
import subprocess
import sys
import tempfile

from common import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main():
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    cases = failures = 0
    with Server("--memory", "1GB", "--ctx", "128") as server:
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
        while cases < wanted:
            command = [
                sys.executable, "-m", "schemathesis.cli", "run", f"{server.base}/openapi.json", "--checks", CHECKS,
                "--max-examples", "400", "--seed", str(seed), "--phases", "examples,coverage,fuzzing", "--mode", "all",
                "--request-timeout", "120", "--generation-database", "none",
                "--suppress-health-check", "all", "--max-response-time", "120",
            ]
            # It leaves files where it runs.
            with tempfile.TemporaryDirectory() as folder:
                run = subprocess.run(command, capture_output=True, text=True, cwd=folder)
            found = re.findall(r"(\d+) generated", run.stdout)
            if not found:
                print(run.stdout[-3000:], run.stderr[-3000:])
                sys.exit(1)
            cases += int(found[-1])
            if run.returncode != 0:
                failures += 1
                print(run.stdout[-6000:])
                break
            seed += 1
            print(f"{cases} cases so far", flush=True)
        assert server.process.poll() is None
    print(f"schemathesis: {cases} cases, {'no failure' if not failures else 'FAILURES'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

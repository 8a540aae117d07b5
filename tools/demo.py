"""`make demo`: speaks one text through the real local RunPod API and writes it to out/.

Starts `handler.py --rp_serve_api` on a free loopback port, posts a job to /runsync, saves the
audio and ends the server. Reads TEXT, VOICE and FORMAT from the environment; what is not given
comes from test_input.json.
"""

import base64
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_SEC = 120
JOB_TIMEOUT_SEC = 1800


def main() -> None:
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(1))  # so that the server ends too
    (ROOT / "out").mkdir(exist_ok=True)
    job = json.loads((ROOT / "test_input.json").read_text())
    names = {"TEXT": "text", "VOICE": "speaker_name", "FORMAT": "output_format"}
    job["input"] |= {
        field: os.environ[name] for name, field in names.items() if os.environ.get(name)
    }
    print("Starting the local RunPod API ...", flush=True)
    with local_api() as port:
        print(f"Speaking {len(job['input']['text'])} characters ...", flush=True)
        reply = post(port, "/runsync", job)
    output = reply.get("output") or {}
    if "audio_base64" not in output:
        sys.exit(f"The job failed: {reply.get('error') or output.get('error') or reply}")
    audio = ROOT / "out" / f"demo.{output['format']}"
    audio.write_bytes(base64.b64decode(output["audio_base64"]))
    report(audio, output, job)


def report(audio: Path, output: dict[str, Any], job: dict[str, Any]) -> None:
    name, seconds = audio.relative_to(ROOT), output["timings"]["total_sec"]
    print(f"\n{name}: {output['duration_sec']:.2f} s of speech, {audio.stat().st_size:,} bytes")
    print(f"voice {output['voice']}, engine {output['engine']}, made in {seconds:.2f} s")
    if "model" in output:
        print(", ".join(f"{what} {value}" for what, value in output["model"].items()))
    for warning in output["warnings"]:
        print(f"warning: {warning}")
    body = shlex.quote(json.dumps(job, ensure_ascii=False))
    print(
        "\nThe same by hand, with `make serve` in another terminal:\n"
        f"curl -s http://127.0.0.1:8000/runsync -H 'Content-Type: application/json' -d {body} \\\n"
        f"  | python3 examples/save_audio.py {shlex.quote(str(name))}"
    )


@contextmanager
def local_api() -> Iterator[int]:
    """The port of a local API that is ready to take jobs; it ends with the block."""
    with reserved_port() as port:
        command = [sys.executable, "handler.py", "--rp_serve_api"]
        command += ["--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
        env = {name: value for name, value in os.environ.items() if value}
        env |= {"RUNPOD_LOG_LEVEL": "WARN", "UVICORN_LOG_LEVEL": "warning"}
        server = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
        try:
            wait_until_ready(server, port)
            yield port
        finally:
            stop(server)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free loopback port. While the block lasts the system gives it to nobody else; a server that
    is told its number can listen there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SEC
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit("The local API ended at its start; its last lines are above.")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"The local API was not ready after {START_TIMEOUT_SEC} s.")


def stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=JOB_TIMEOUT_SEC)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    if reply.status != 200:
        sys.exit(f"The local API answered {reply.status}: {reply.read(2000).decode()}")
    answer: dict[str, Any] = json.load(reply)
    return answer


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"The demo failed: {type(error).__name__}: {error}")

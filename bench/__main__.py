"""Runs every measurement in a process of its own, after a line about the machine.

python -m bench                all of them
python -m bench text_plan job  some of them
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "text_plan",
    "pace",
    "audio_chain",
    "engines",
    "job",
    "worker",
    "server",
    "sockets",
    "vibevoice_reference",
    "frame_loop",
    "bridge",
    "verify",
)


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    python = platform.python_version()
    return f"{model or platform.machine()}, {os.cpu_count()} cores, Python {python}"


def main() -> None:
    print(machine(), flush=True)
    for name in sys.argv[1:] or SCRIPTS:
        print(f"\n{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"bench.{name}"], check=True)


if __name__ == "__main__":
    main()

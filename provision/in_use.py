"""Keeps a worker's mark of use fresh. bootstrap.sh writes the mark; both doors touch it.

A mark is a file that names parts of the volume. A part that no fresh mark names is removed after a
day.
"""

import logging
import os
import threading
from pathlib import Path

log = logging.getLogger("vibevoice")


def mark_in_thread() -> None:
    """Touches the mark of bootstrap.sh, if there is one, in a thread until the process ends."""
    if mark := os.environ.get("VIBEVOICE_IN_USE"):
        never = threading.Event()
        threading.Thread(target=stay_in_use, args=(Path(mark), never), daemon=True).start()


def stay_in_use(mark: Path, ended: threading.Event, every_sec: float = 60) -> None:
    """Touches the mark every `every_sec` seconds until `ended`."""
    named = mark.read_bytes() if mark.is_file() else b""
    failed = False
    while True:
        try:
            # Another start may have removed the mark while this worker was frozen for days.
            if mark.exists():
                os.utime(mark)
            else:
                mark.write_bytes(named)
            failed = False
        except OSError as error:
            if not failed:
                problem = error.strerror
                log.warning("the volume cannot be told that its parts are in use: %s", problem)
            failed = True
        if ended.wait(every_sec):
            return

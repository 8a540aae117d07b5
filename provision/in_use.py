"""bootstrap.sh's mark for this worker, kept fresh by both doors: what it names stays on the volume.

A part of the volume that no fresh mark names is removed after a day.
"""

import logging
import os
import threading
from pathlib import Path

log = logging.getLogger("vibevoice")


def mark_in_thread() -> None:
    """Touches the mark that bootstrap.sh left, if it did, for as long as the process lives."""
    if mark := os.environ.get("VIBEVOICE_IN_USE"):
        never = threading.Event()
        threading.Thread(target=stay_in_use, args=(Path(mark), never), daemon=True).start()


def stay_in_use(mark: Path, ended: threading.Event, every_sec: float = 60) -> None:
    """Touches the mark until `ended`."""
    named = mark.read_bytes() if mark.is_file() else b""
    failed = False
    while True:
        try:
            # A worker that was frozen for days may find that its mark has been cleared away.
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

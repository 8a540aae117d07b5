"""Does this GPU make frames, the right ones, and how fast: one table, within three minutes.

python -m bench.gpu_check                        the 7B with random weights, drawn on the device
python -m bench.gpu_check --size 1.5b
python -m bench.gpu_check --device cpu --size tiny     where there is no GPU
                          --full                 also upstream's `generate`, and the whole server

Needs no checkpoint and no network, and but for `--full` nothing of upstream. A row is `ok`,
`failed` or `n/a`, where it does not apply; a failed one makes the exit status 1. All rows go to
`gpu_check.json` (`--out`), of which `python -m bench.report` makes a table and a chart.

`--full` compares with upstream where its package is installed, and serves the model that MODEL_PATH
names: random weights never end a text.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from bench import gpu_full, gpu_rows
from bench.gpu_card import Card
from bench.gpu_row import Row, failed
from bench.random_model import SIZES

SCHEMA = 1
Part = Callable[[Card], Iterator[Row]]

PARTS: dict[str, Part] = {
    "machine": gpu_rows.machine,
    "weights": gpu_rows.weights,
    "eager = captured": gpu_rows.bits,
    "attention": gpu_rows.attention,
    "convolutions": gpu_rows.convolutions,
    "frame": gpu_rows.frames,
    "capture": gpu_rows.captures,
    "admission": gpu_rows.admissions,
    "500 frames": gpu_rows.many_frames,
    "speed": gpu_rows.speed,
}
FULL: dict[str, Part] = {
    "machine": gpu_rows.machine,
    "upstream": gpu_full.upstream,  # its weights go before ours come
    **PARTS,
    "faster than upstream": gpu_full.ratio,
    "server": gpu_full.server,
}


def rows_of(card: Card, parts: dict[str, Part]) -> Iterator[Row]:
    """Whatever a part raises is a failed row, and the next part is tried."""
    for name, part in parts.items():
        try:
            yield from part(card)
        except Exception as error:  # noqa: BLE001 - said in its row
            yield failed(name, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def report(card: Card, rows: list[Row], seconds: float) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": card.size,
        "device": card.name,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "ok": all(row.status != "failed" for row in rows),
        "rows": [row.as_json() for row in rows],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("gpu_check: there is no CUDA device; `--device cpu --size tiny` runs without one")
        return 1
    began = time.monotonic()
    card = Card(torch.device(asked.device), asked.size)
    rows: list[Row] = []
    print(f"| {'what':<24} | status | result")
    for row in rows_of(card, FULL if asked.full else PARTS):
        rows.append(row)
        print(row, flush=True)
    made = report(card, rows, time.monotonic() - began)
    asked.out.write_text(json.dumps(made, indent=1) + "\n")
    count = sum(row.status == "failed" for row in rows)
    print(f"{count or 'no'} row{'s' * (count != 1)} failed, {made['seconds']} s; {asked.out}")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Converts upstream's presets: `python -m tools.presets convert FOLDER [--out FOLDER]`.

FOLDER holds upstream's `.pt` files, as `demo/voices/streaming_model` of microsoft/VibeVoice does.
Each becomes a safetensors file and a manifest in `--out`, by default `presets/` in the volume. A
file that is no preset is refused with a sentence, and the exit status is 1. Nothing in a file is
executed.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from engines.realtime.pickles import CACHE, OUTPUT, Instance, Refused, read
from engines.realtime.presets import PARTS

LICENCE = (
    "A demo voice of microsoft/VibeVoice. The repository is under the MIT licence; nothing is said"
    " of the voices' own, and their names look like those of speech corpora. For trials, not for a"
    " product."
)
_LANGUAGES = {
    "en": "en",
    "in": "en-IN",
    "de": "de",
    "fr": "fr",
    "it": "it",
    "jp": "ja",
    "kr": "ko",
    "nl": "nl",
    "pl": "pl",
    "pt": "pt",
    "sp": "es",
}


def convert(file: Path, out: Path) -> None:
    """Converts one file. Raises `Refused`; what is there before stays then."""
    data = save(tensors_of(read(file)))
    manifest = {
        "name": file.stem,
        "language": _LANGUAGES.get(file.stem.partition("-")[0], "und"),
        "licence": LICENCE,
        "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    out.mkdir(parents=True, exist_ok=True)
    _write(out / f"{file.stem}.safetensors", data)
    _write(out / f"{file.stem}.json", json.dumps(manifest, indent=1).encode() + b"\n")


def tensors_of(found: Any) -> dict[str, Tensor]:
    """A preset's tensors by name, of what its pickle holds. Raises `Refused`."""
    if not isinstance(found, dict) or set(found) != set(PARTS):
        raise Refused(f"it has other parts than {', '.join(PARTS)}")
    made = {}
    for part in PARTS:
        made[f"{part}.hidden"], made[f"{part}.cache"] = _part(found[part])
    return made


def _part(output: Any) -> tuple[Tensor, Tensor]:
    """The last hidden row (hidden,), and keys and values (layers, tokens, 2, heads, width)."""
    if not _is(output, OUTPUT) or len(output.arguments) < 2:
        raise Refused("a part is no output of a language model")
    hidden, cache = output.arguments[:2]
    if not _is(cache, CACHE) or not isinstance(cache.state, dict):
        raise Refused("a part has no keys and values")
    keys, values = (_layers(cache.state.get(name)) for name in ("key_cache", "value_cache"))
    pairs = list(zip(keys, values, strict=False))
    shape = keys[0].shape
    if len(keys) != len(values) or any(each.shape != shape for each in (*keys, *values)):
        raise Refused("its keys and values differ in shape")
    if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[:2] != (1, shape[2]):
        raise Refused("its hidden states do not fit its keys")
    import torch

    stacked = torch.stack([torch.stack(pair, 2)[0] for pair in pairs])
    return hidden[0, -1].contiguous(), stacked.permute(0, 3, 2, 1, 4).contiguous()


def _layers(found: Any) -> list[Tensor]:
    tensors = found if isinstance(found, list) else []
    if not tensors or not all(isinstance(each, Tensor) and each.dim() == 4 for each in tensors):
        raise Refused("a part has no keys and values")
    return tensors


def _is(found: Any, kind: str) -> bool:
    return isinstance(found, Instance) and found.kind == kind


def _write(file: Path, data: bytes) -> None:
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_bytes(data)
    fresh.replace(file)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["convert"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="by default `presets/` in VIBEVOICE_VOLUME")
    asked = parser.parse_args(arguments)
    out = asked.out or Path(os.environ.get("VIBEVOICE_VOLUME") or "volume") / "presets"
    files = sorted(asked.folder.glob("*.pt"))
    if not files:
        sys.stderr.write(f"{asked.folder} has no .pt file\n")
    failed = 0
    for file in files:
        try:
            convert(file, out)
        except Refused as reason:
            failed += 1
            sys.stderr.write(f"{file.name} is refused: {reason}\n")
    sys.stdout.write(f"{len(files) - failed} of {len(files)} presets are in {out}\n")
    return int(failed > 0 or not files)


if __name__ == "__main__":
    sys.exit(main())

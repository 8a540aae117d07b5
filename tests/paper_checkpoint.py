"""A checkpoint that looks whole and says nothing: right files in their right sizes, all zeros.

It passes `engines.vibevoice.checkpoint.inspect`, which reads no weight, and needs no torch.
"""

import json
import struct
from pathlib import Path

from engines.vibevoice.checkpoint import EMBEDDING, SCALES


def paper_checkpoint(folder: Path, rows: int = 1000, with_tokenizer: bool = True) -> Path:
    """Writes it to `folder`; its weights take 2 KB a row."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "vibevoice",
        "decoder_config": {
            "model_type": "qwen2",
            "vocab_size": rows,
            "hidden_size": 512,
            "tie_word_embeddings": True,
        },
        "acoustic_tokenizer_config": {},
    }
    (folder / "config.json").write_text(json.dumps(config))
    if with_tokenizer:
        write_paper_tokenizer(folder)
    shapes: dict[str, list[int]] = {EMBEDDING: [rows, 512], SCALES[0]: [1], SCALES[1]: [1]}
    head, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    weights = struct.pack("<Q", len(text)) + text + bytes(end)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def write_paper_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    return folder

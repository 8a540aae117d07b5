"""Inspects a model folder by its JSON files and the headers of its weight files.

No weight is read. `inspect` accepts only checkpoints that upstream's classes load correctly. Those
classes do not refuse other formats, but allocate a model of their default size.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.vibevoice.hub import Hub, Incomplete
from request.errors import EngineError

FILES = ("*.json", "*.safetensors", "*.txt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
DEFAULT_TOKENIZER = "Qwen/Qwen2.5-1.5B"

HEAD = "lm_head.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"
SCALES = ("model.speech_scaling_factor", "model.speech_bias_factor")
_CONTEXT, _RATIOS = 32768, (8, 5, 5, 4, 2, 2)  # upstream's, where config.json leaves them out
_LARGE_SIZE = 5_000_000_000  # the 1.5B has 2.7 billion with all its parts, the 7B 9.3
_FLOATS = ("F64", "F32", "F16", "BF16")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint in the original format.

    `tied`: the output head shares the embedding's weight. `context` is in tokens, `hop` in samples
    a frame. `tokenizer` is a hub id or a folder, as the model's config names it.
    """

    folder: Path
    parameters: int
    tied: bool
    context: int
    hop: int
    normalise: bool
    tokenizer: str

    @property
    def is_small(self) -> bool:
        """Whether this is the 1.5B and not the 7B, the two published models."""
        return self.parameters < _LARGE_SIZE


def find(
    hub: Hub,
    name: str,
    revision: str = "main",
    setting: str = "MODEL_PATH",
    check: Callable[[Path], Checkpoint] | None = None,
) -> tuple[Checkpoint, Path]:
    """Finds a model and the folder of its tokenizer, and downloads what is missing.

    `check` inspects its folder, by default as a model that clones. `setting` names it in messages.
    Raises `EngineError`.
    """
    check = check or inspect
    checkpoint = check(hub.find(name, setting, check, FILES, revision))
    tokenizer = hub.find(
        checkpoint.tokenizer, "the model's tokenizer", check_tokenizer, TOKENIZER_FILES
    )
    return checkpoint, tokenizer


def inspect(folder: Path) -> Checkpoint:
    """Reads a checkpoint's description. Raises `Incomplete` where files are missing.

    Raises `EngineError` for any other format.
    """
    config = read(folder, "config.json")
    _check_format(config)
    shapes = read_shapes(folder)
    decoder = _section(config, "decoder_config")
    _check_sizes(decoder, shapes)
    processor = (
        read(folder, "preprocessor_config.json")
        if (folder / "preprocessor_config.json").is_file()
        else {}
    )
    tied = HEAD not in shapes
    if tied and _says_untied(config):
        raise EngineError("MODEL_PATH: the model's output head (lm_head.weight) is missing")
    return Checkpoint(
        folder=folder,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        tied=tied,
        context=int(decoder.get("max_position_embeddings", _CONTEXT)),
        hop=math.prod(_section(config, "acoustic_tokenizer_config").get("encoder_ratios", _RATIOS)),
        normalise=bool(processor.get("db_normalize", True)),
        tokenizer=tokenizer_of(folder, processor),
    )


def read(folder: Path, name: str, setting: str = "MODEL_PATH") -> dict[str, Any]:
    """A JSON file of a model's folder; `setting` names the model in messages."""
    try:
        found = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise Incomplete(f"{setting}: the folder holds no model ({name} is missing)") from None
    except ValueError:
        raise Incomplete(f"{setting}: {name} is damaged; download the model again") from None
    if not isinstance(found, dict):
        raise EngineError(f"{setting}: {name} is not what a model's would be")
    return found


def _check_format(config: Mapping[str, Any]) -> None:
    original = "use one in the original format, such as vibevoice/VibeVoice-7B"
    kind = config.get("model_type")
    if "text_config" in config:
        raise EngineError(
            f"MODEL_PATH: this model was converted for newer transformers ({kind}); {original}"
        )
    if kind != "vibevoice" or "decoder_config" not in config:
        raise EngineError(f"MODEL_PATH: this is no VibeVoice model but {kind!r}; {original}")
    if _section(config, "decoder_config").get("model_type") != "qwen2":
        raise EngineError("MODEL_PATH: the model's decoder is not Qwen2, which upstream needs")
    if config.get("quantization_config"):
        raise EngineError("MODEL_PATH: quantised models are not supported; use the full weights")


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        raise EngineError(f"MODEL_PATH: config.json has no {name}")
    return section


def _says_untied(config: Mapping[str, Any]) -> bool:
    decoder = _section(config, "decoder_config")
    return decoder.get("tie_word_embeddings", config.get("tie_word_embeddings")) is False


def _check_sizes(decoder: Mapping[str, Any], shapes: Shapes) -> None:
    for name in (EMBEDDING, *SCALES):
        if name not in shapes:
            raise EngineError(f"MODEL_PATH: the model's {name} is missing, so it cannot speak")
    said = (decoder.get("vocab_size"), decoder.get("hidden_size"))
    if shapes[EMBEDDING] != said or shapes.get(HEAD, said) != said:
        raise EngineError("MODEL_PATH: config.json and the weights are not of one model")


def read_shapes(folder: Path, setting: str = "MODEL_PATH") -> Shapes:
    """The shapes of all tensors by name. An index, where there is one, names the files."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return _head(folder / "model.safetensors", setting)
    names = sorted(set(read(folder, index.name, setting).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise Incomplete(f"{setting}: weight files are missing: {', '.join(missing) or 'all'}")
    return {name: shape for file in names for name, shape in _head(folder / file, setting).items()}


def _head(file: Path, setting: str) -> Shapes:
    """The shapes in a safetensors file. The file must be as long as its header says."""
    from safetensors import SafetensorError, safe_open  # the demo's environment has none

    if not file.is_file():
        raise Incomplete(f"{setting}: weight files are missing: {file.name}")
    damaged = Incomplete(f"{setting}: {file.name} is cut off or damaged; download it again")
    try:
        with safe_open(file, framework="np") as weights:
            tensors = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            shapes = {name: tuple(each.get_shape()) for name, each in tensors.items()}
            kinds = {each.get_dtype() for each in tensors.values()}
    except SafetensorError:
        raise damaged from None
    if not shapes:
        raise damaged
    if not kinds <= set(_FLOATS):
        raise EngineError(f"{setting}: quantised models are not supported; use the full weights")
    return shapes


def tokenizer_of(folder: Path, processor: Mapping[str, Any]) -> str:
    """The tokenizer's folder or hub id. A folder beside the weights is preferred to a hub id."""
    named = str(processor.get("language_model_pretrained_name") or DEFAULT_TOKENIZER)
    for bundled in (folder / named, folder):
        if has_tokenizer(bundled):
            return str(bundled)
    return named


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer."""
    return (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    )


def check_tokenizer(folder: Path) -> None:
    """Raises `Incomplete` where the folder holds no tokenizer."""
    if not has_tokenizer(folder):
        raise Incomplete("the model's tokenizer: its files are missing (tokenizer.json)")

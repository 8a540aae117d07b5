"""What model folders are refused, and how the others are read."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from engines.memory import free_host_memory
from engines.vibevoice.checkpoint import DEFAULT_TOKENIZER, check_tokenizer, inspect
from engines.vibevoice.engine import VibeVoiceEngine
from request.errors import EngineError
from tests import vibevoice_fixtures as vibevoice
from tests.tiny_checkpoint import tiny_checkpoint
from tests.vibevoice_fixtures import TEXT, plan, samples

safetensors = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)
CODEC = "acoustic_tokenizer_config"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to change."""
    return Path(shutil.copytree(vibevoice.checkpoint(), tmp_path / "model"))


def edit(folder: Path, changes: dict[str, Any], name: str = "config.json") -> None:
    """None removes a key."""
    config = json.loads((folder / name).read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / name).write_text(json.dumps(config))


def rewrite(folder: Path, changes: dict[str, Any]) -> None:
    """The same for tensors."""
    weights = safetensors.load_file(folder / "model.safetensors") | changes
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    safetensors.save_file(weights, folder / "model.safetensors", {"format": "pt"})


def load(folder: Path, **options: Any) -> VibeVoiceEngine:
    settings = {"device": "cpu", "runtime": "reference", **options}
    engine = VibeVoiceEngine(str(folder), volume=vibevoice.volume(), **settings)
    engine.load()
    return engine


def test_the_tiny_checkpoint_is_read_as_what_it_is() -> None:
    found = inspect(vibevoice.checkpoint())
    network = vibevoice.model().network
    assert found.parameters == sum(p.numel() for p in network.parameters()) + 2
    assert (found.tied, found.context, found.hop) == (False, 8192, 3200)
    assert found.normalise
    assert found.is_small
    assert found.tokenizer == str(vibevoice.checkpoint() / "qwen-tokenizer")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_config": {}, "decoder_config": None}, "converted for newer transformers"),
        ({"text_config": {}}, "converted for newer transformers"),
        ({"model_type": "vibevoice_streaming"}, "no VibeVoice model but 'vibevoice_streaming'"),
        ({"model_type": "llama", "decoder_config": None}, "no VibeVoice model but 'llama'"),
        ({"model_type": None}, "no VibeVoice model but None"),
        ({"decoder_config": {"model_type": "llama"}}, "decoder is not Qwen2"),
        ({"decoder_config": "qwen"}, "config.json has no decoder_config"),
        ({CODEC: None}, f"config.json has no {CODEC}"),
        ({"quantization_config": {"bits": 4}}, "quantised models are not supported"),
        ({"decoder_config": {"model_type": "qwen2"}}, "not of one model"),
    ],
)
def test_other_formats_are_refused_in_words(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    edit(folder, changes)
    with pytest.raises(EngineError, match=words) as caught:
        load(folder)
    assert str(folder) not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"holds no model \(config.json is missing\)"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]"])
def test_a_damaged_config_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"config\.json is"):
        inspect(folder)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    whole = tiny_checkpoint(tmp_path / "model", vibevoice.volume() / "vibevoice", "2MB")
    shards = sorted(path.name for path in whole.glob("*.safetensors"))
    assert len(shards) > 2
    assert inspect(whole).parameters == inspect(vibevoice.checkpoint()).parameters
    for shard in shards[1:]:
        (whole / shard).unlink()
    with pytest.raises(EngineError, match=f"weight files are missing: {', '.join(shards[1:])}"):
        inspect(whole)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_download_that_was_cut_off_is_told_by_its_length(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, length if length >= 0 else file.stat().st_size + length)
    with pytest.raises(EngineError, match=r"model\.safetensors is cut off or damaged"):
        inspect(folder)


@pytest.mark.parametrize("head", [b"[]", b"{}", b'{"a": 1}', b'{"a": {"data_offsets": [0]}}'])
def test_a_weight_file_with_a_strange_head_is_damaged(folder: Path, head: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    with pytest.raises(EngineError, match="is cut off or damaged"):
        inspect(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(EngineError, match=r"weight files are missing: model\.safetensors"):
        inspect(folder)


def test_eight_bit_weights_are_refused(folder: Path) -> None:
    torch = vibevoice.torch
    rewrite(folder, {"lm_head.weight_format": torch.zeros(3, dtype=torch.uint8)})
    with pytest.raises(EngineError, match="quantised models are not supported"):
        inspect(folder)


def test_a_model_without_its_speech_scale_is_refused(folder: Path) -> None:
    rewrite(folder, {"model.speech_scaling_factor": None})
    with pytest.raises(EngineError, match=r"speech_scaling_factor is missing"):
        load(folder)


def test_a_speech_scale_that_is_no_number_is_refused(folder: Path) -> None:
    rewrite(folder, {"model.speech_bias_factor": vibevoice.torch.tensor(float("nan"))})
    with pytest.raises(EngineError, match="speech_bias_factor is not a number"):
        load(folder)


def test_an_output_head_of_its_own_is_kept_though_the_config_does_not_say_so(folder: Path) -> None:
    edit(folder, {"tie_word_embeddings": None})
    engine = load(folder)
    network = vibevoice.model_of(engine).network
    assert network.lm_head.weight is not network.get_input_embeddings().weight
    assert vibevoice.torch.equal(network.lm_head.weight, vibevoice.model().network.lm_head.weight)


@pytest.mark.parametrize("key", [{}, {"tie_word_embeddings": False}], ids=["no key", "wrong key"])
def test_a_head_that_is_not_in_the_weights_is_the_embedding(
    folder: Path, key: dict[str, Any]
) -> None:
    rewrite(folder, {"lm_head.weight": None})
    decoder = json.loads((folder / "config.json").read_text())["decoder_config"]
    edit(folder, {"tie_word_embeddings": None, "decoder_config": decoder})
    edit(folder, {"decoder_config": {**decoder, "tie_word_embeddings": True}, **key})
    network = vibevoice.model_of(load(folder)).network
    assert network.lm_head.weight is network.get_input_embeddings().weight


def test_a_head_that_should_be_there_and_is_not_is_an_error(folder: Path) -> None:
    rewrite(folder, {"lm_head.weight": None})
    with pytest.raises(EngineError, match=r"output head \(lm_head\.weight\) is missing"):
        inspect(folder)


def test_half_precision_weights_become_float32_on_a_cpu(folder: Path) -> None:
    weights = safetensors.load_file(folder / "model.safetensors")
    rewrite(folder, {name: tensor.bfloat16() for name, tensor in weights.items()})
    edit(folder, {"torch_dtype": "bfloat16"})
    engine = load(folder)
    kinds = {p.dtype for p in vibevoice.model_of(engine).network.state_dict().values()}
    assert kinds == {vibevoice.torch.float32}
    assert len(samples(engine.start(plan(TEXT))))


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.vibevoice.loader.free_host_memory", lambda: 1 << 30)
    with pytest.raises(
        EngineError, match=r"needs 1\.0 GiB and 1\.0 GiB of memory are free: use a larger machine"
    ):
        load(folder)


def test_a_check_finds_what_would_keep_it_from_loading_and_loads_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VibeVoiceEngine(str(folder), volume=vibevoice.volume(), device="cpu")
    engine.check()
    assert not engine.ready
    with monkeypatch.context() as small:
        small.setattr("engines.vibevoice.loader.free_host_memory", lambda: 1 << 30)
        with pytest.raises(EngineError, match="memory are free"):
            engine.check()
    (folder / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="MODEL_PATH"):
        engine.check()


def test_a_check_passes_a_model_that_is_still_to_be_downloaded(tmp_path: Path) -> None:
    VibeVoiceEngine(
        "nobody/nothing", code=vibevoice.volume() / "vibevoice", volume=tmp_path, device="cpu"
    ).check()


def test_the_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    tokenizer = folder / "qwen-tokenizer" / "vocab.json"
    words = json.loads(tokenizer.read_text())
    words |= {f"word{number}": len(words) + number for number in range(500)}
    tokenizer.write_text(json.dumps(words))
    with pytest.raises(EngineError, match="tokenizer is not the one that the model was made with"):
        load(folder)


def test_a_tokenizer_is_found_in_the_checkpoint_or_by_its_hub_id(folder: Path) -> None:
    edit(folder, {"language_model_pretrained_name": "Qwen/Qwen2.5-7B"}, "preprocessor_config.json")
    assert inspect(folder).tokenizer == "Qwen/Qwen2.5-7B"
    (folder / "preprocessor_config.json").unlink()
    assert inspect(folder).tokenizer == DEFAULT_TOKENIZER
    for file in (folder / "qwen-tokenizer").iterdir():
        file.rename(folder / file.name)
    assert inspect(folder).tokenizer == str(folder)


def test_a_tokenizer_in_a_hub_cache_is_used_without_the_network(
    folder: Path, tmp_path: Path
) -> None:
    edit(folder, {"language_model_pretrained_name": None}, "preprocessor_config.json")
    snapshots = tmp_path / "cache" / "models--Qwen--Qwen2.5-1.5B" / "snapshots"
    shutil.move(folder / "qwen-tokenizer", snapshots / ("a" * 40))
    model = tmp_path / "cache" / "models--some--Tiny" / "snapshots" / ("b" * 40)
    shutil.move(folder, model)
    engine = VibeVoiceEngine(
        "some/Tiny", volume=vibevoice.volume(), platform_cache=tmp_path / "cache", device="cpu"
    )
    assert len(samples(engine.start(plan(TEXT))))
    assert engine.capabilities.details["model"] == "some/Tiny"
    assert engine.capabilities.details["revision"] == "b" * 40


def test_a_folder_without_a_tokenizer_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="its files are missing"):
        check_tokenizer(tmp_path)


def test_free_memory_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert free_host_memory(tmp_path, meminfo) is None
    meminfo.write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    assert free_host_memory(tmp_path, meminfo) == 3000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500000\n")
    assert free_host_memory(tmp_path, meminfo) == 3000 * 1024
    (tmp_path / "memory.max").write_text("1500000\n")
    assert free_host_memory(tmp_path, meminfo) == 1_000_000
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 200000\n")
    assert free_host_memory(tmp_path, meminfo) == 1_200_000
    assert 1 << 20 < (free_host_memory() or 0) < 1 << 50

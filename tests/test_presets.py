"""Upstream's preset pickles become safetensors, and nothing in them is executed."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from engines.realtime import convert as presets
from engines.realtime.pickles import Refused, read
from engines.realtime.presets import PARTS, load_tensors

pytestmark = pytest.mark.realtime


def preset(tokens: int = 6, hidden: int = 16) -> dict[str, Any]:
    """A voice as upstream's are: small, in bfloat16."""
    made = {}
    draw = torch.Generator().manual_seed(tokens)
    for part, layers in zip(PARTS, (2, 3, 2, 3), strict=True):
        count = 1 if part.startswith("neg") else tokens
        cache: Any = DynamicCache()
        for layer in range(layers):
            pair = torch.randn(2, 1, 2, count, 8, generator=draw).bfloat16()
            cache.update(pair[0].clone(), pair[1].clone(), layer)
        state: Any = torch.randn(1, count, hidden, generator=draw).bfloat16()
        made[part] = BaseModelOutputWithPast(last_hidden_state=state, past_key_values=cache)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "sp-Ana_woman.pt"
    torch.save(preset(), made)
    return made


@pytest.mark.usefixtures("file")
def test_a_preset_keeps_its_tensors_to_the_bit(tmp_path: Path) -> None:
    assert presets.main(["convert", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    made = load_tensors(tmp_path / "out", "sp-Ana_woman")
    for part, wanted in preset().items():
        cache, pairs = wanted.past_key_values, made[f"{part}.cache"]
        for layer, pair in enumerate(pairs):
            assert torch.equal(pair[:, 0].transpose(0, 1)[None], cache.key_cache[layer])
            assert torch.equal(pair[:, 1].transpose(0, 1)[None], cache.value_cache[layer])
        assert torch.equal(made[f"{part}.hidden"], wanted.last_hidden_state[0, -1])
    manifest = json.loads((tmp_path / "out" / "sp-Ana_woman.json").read_text())
    assert (manifest["name"], manifest["language"]) == ("sp-Ana_woman", "es")
    assert "not for a product" in manifest["licence"].lower()


def repacked(file: Path, pickle: bytes | None = None, **members: bytes) -> None:
    """The file with another pickle, or other members."""
    with zipfile.ZipFile(file) as archive:
        kept = {each.filename: archive.read(each) for each in archive.infolist()}
    root = next(iter(kept)).partition("/")[0]
    if pickle is not None:
        kept[f"{root}/data.pkl"] = pickle
    kept |= {f"{root}/{name.replace('_', '/')}": data for name, data in members.items()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)


class Harmful:
    def __init__(self, called: Any, *arguments: Any) -> None:
        self.called, self.arguments = called, arguments

    def __reduce__(self) -> Any:
        return self.called, self.arguments


PROTO, STOP = b"\x80\x02", b"."
HOSTILE = {
    "a call": pickle.dumps(Harmful(os.system, "touch HARMED"), 2),
    "a call by name": PROTO + b"cposix\nsystem\n(X\x0c\x00\x00\x00touch HARMED\x85R.",
    "eval": PROTO + b"c__builtin__\neval\n(X\x01\x00\x00\x001tR.",
    "an instance": PROTO + b"(X\x05\x00\x00\x00touchios\nsystem\n.",
    "an object": PROTO + b"(cos\nsystem\nX\x05\x00\x00\x00toucho.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "new with arguments by name": b"\x80\x04cos\nsystem\n)}\x92.",
    "an extension": PROTO + b"\x82\x01.",
    "a buffer": b"\x80\x05\x97.",
    "a persistent name": PROTO + b"Ptouch\n.",
    "a persistent id that is none": PROTO + b"K\x01Q.",
    "a dotted known name": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    "a storage called": PROTO + b"ctorch\nBFloat16Storage\n)R.",
    "a call of a number": PROTO + b"K\x01)R.",
    "state of a list": PROTO + b"]}b.",
    "more than there is": PROTO + b"0000R.",
    "an append to nothing": PROTO + b"K\x01a.",
    "items of a number": PROTO + b"K\x01K\x02K\x03s.",
    "keys that are no text": PROTO + b"}(K\x01K\x02u.",
    "a memo that is empty": PROTO + b"h\x07.",
    "a mark that is missing": PROTO + b"t.",
    "a length beyond the end": PROTO + b"X\xff\xff\xff\x7fa.",
    "a huge number": PROTO + b"\x8b\xff\xff\xff\x7f.",
    "no end": PROTO + b"N",
    "nothing": b"",
    "deep nesting": PROTO + b"N" + b"\x85" * 500_000 + STOP,
    "a big pickle": PROTO + b"N" * (1 << 20) + STOP,
    "a dict of something else": pickle.dumps({"lm": 1}, 2),
    "parts that are numbers": pickle.dumps(dict.fromkeys(PARTS, 1), 2),
    "invalid text": PROTO + b"X\x02\x00\x00\x00\xff\xff.",
}


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_hostile_file_is_refused_with_a_sentence_and_does_nothing(
    trick: str,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    repacked(file, HOSTILE[trick])
    assert presets.main(["convert", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sp-Ana_woman.pt is refused: ")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "HARMED").exists()
    assert not (tmp_path / "out").exists()


def pickle_of(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))


def test_a_tensor_that_reaches_behind_its_storage_is_refused(file: Path) -> None:
    good = pickle_of(file)
    assert good.count(b"K\x06K\x10\x87") == 2, "two parts have hidden states of (1, 6, 16)"
    repacked(file, good.replace(b"K\x06K\x10\x87", b"K\xffK\x10\x87"))
    with pytest.raises(Refused, match="behind its storage"):
        read(file)


def test_a_storage_that_is_shorter_than_it_says_is_refused(file: Path) -> None:
    repacked(file, data_0=b"\0\0")
    with pytest.raises(Refused, match="not as long as it says"):
        read(file)


def test_another_byte_order_or_compression_is_refused(file: Path, tmp_path: Path) -> None:
    repacked(file, byteorder=b"big")
    with pytest.raises(Refused, match="little-endian"):
        read(file)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 20))
    with pytest.raises(Refused, match="compressed"):
        read(bomb)


def test_what_is_no_file_of_pytorchs_is_named_with_the_reason(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    whole = file.read_bytes()
    for name, data in (("empty", b""), ("text", b"x" * 100), ("half", whole[: len(whole) // 2])):
        (folder / f"{name}.pt").write_bytes(data)
    assert presets.main(["convert", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "empty.pt is refused: it is empty",
        "half.pt is refused: it is cut, or no file of PyTorch's",
        "text.pt is refused: it is cut, or no file of PyTorch's",
    ]
    none = tmp_path / "none"
    assert presets.main(["convert", str(none), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{none} has no .pt file\n"


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_pickle_is_read_or_refused_and_never_more(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    buffer = io.BytesIO()
    torch.save(preset(), buffer)
    file = tmp_path_factory.mktemp("damaged") / "one.pt"
    file.write_bytes(buffer.getvalue())
    good = bytearray(pickle_of(file))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    repacked(file, bytes(good))
    try:
        presets.tensors_of(read(file))
    except Refused as reason:
        assert str(reason)

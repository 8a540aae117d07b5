"""`bench.gpu_check` on a CPU and on an emulated card, and what `bench.report` makes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("torch")

import torch

from bench import gpu_card, gpu_check, gpu_full, gpu_prices, gpu_rows, random_model, report
from bench.gpu_card import Card
from bench.gpu_row import Row, failed, not_here, ok
from engines.vibevoice.architecture import architecture
from engines.vibevoice.fast.layers.kernels import FLASH, SDPA
from tests import test_fast_engine as fast  # skips where upstream is missing
from tests import vibevoice_fixtures as vibevoice
from tests.emulated_graphs import CUDAGraph, EmulatedGraphs
from tests.test_kernels import flash

pytestmark = fast.pytestmark
GIB = 1 << 30
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a test may take: fewer slots and frames."""
    for name, value in {"_MANY": 4, "_FRAMES": 1, "_ROUNDS": 1, "_CONTEXTS": (512, 1024)}.items():
        monkeypatch.setattr(gpu_rows, name, value)
    monkeypatch.setattr(gpu_card, "MOST_SLOTS", 8)
    monkeypatch.setattr(gpu_card, "slots_for", lambda *_: 8)


def check(out: Path) -> tuple[int, Any]:
    status = gpu_check.main(["--device", "cpu", "--size", "tiny", "--out", str(out)])
    return status, json.loads(out.read_text())


def statuses(made: Any) -> dict[str, str]:
    return {row["name"]: row["status"] for row in made["rows"]}


CUDA_ROWS = {
    "compute capability",
    "driver",
    "cuDNN",
    "free memory",
    "eager = captured",
    "flash against SDPA",
    "capture",
    "memory",
    "cost of an audio hour",
    "frame 32",
}


def test_without_a_gpu_what_needs_one_does_not_apply_and_the_rest_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, made = check(tmp_path / "made.json")
    assert status == 0
    found = statuses(made)
    assert {name for name, each in found.items() if each == "n/a"} == CUDA_ROWS
    assert {found[name] for name in found.keys() - CUDA_ROWS} == {"ok"}
    assert {"card", "torch", "weights", "frame 8x1024", "4 frames", "audio a second"} < set(found)
    out = capsys.readouterr().out
    assert "| eager = captured         | n/a    | there is no CUDA device" in out
    assert out.endswith(f"no rows failed, {made['seconds']} s; {tmp_path / 'made.json'}\n")


def test_what_is_written_can_be_read_by_other_programs(tmp_path: Path) -> None:
    _, made = check(tmp_path / "made.json")
    assert set(made) == {
        "schema", "made", "size", "device", "torch", "seconds", "ok", "rows",
    }  # fmt: skip
    assert (made["schema"], made["size"], made["ok"]) == (1, "tiny", True)
    for row in made["rows"]:
        assert set(row) == {"name", "status", "text", "figures"}
        assert row["status"] in ("ok", "failed", "n/a")
        assert row["figures"] == {} or row["status"] != "n/a"
    (frame,) = [row for row in made["rows"] if row["name"] == "frame 8x1024"]
    assert frame["figures"]["eager_sdpa_ms"] > 0


def test_samples_that_are_no_numbers_fail_a_row_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(*asked: Any) -> Any:
        weights, tokenizer = random_model.random_weights(*asked)
        with torch.inference_mode():
            weights.decoder.head[1].fill_(float("nan"))
        return weights, tokenizer

    monkeypatch.setattr("bench.gpu_card.random_weights", damaged)
    status, made = check(tmp_path / "made.json")
    assert status == 1
    assert not made["ok"]
    assert [name for name, each in statuses(made).items() if each == "failed"] == ["4 frames"]
    assert "1 row failed" in capsys.readouterr().out


def test_what_a_part_raises_is_its_failed_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Card) -> Iterator[Row]:
        yield ok("half", "done")
        raise RuntimeError("CUDA error: no kernel image is available\nmore of it")

    parts = {"broken": broken, "next": lambda _: iter([not_here("next", "why")])}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    status, made = check(tmp_path / "made.json")
    assert status == 1
    assert statuses(made) == {"half": "ok", "broken": "failed", "next": "n/a"}
    assert made["rows"][1]["text"] == "RuntimeError: CUDA error: no kernel image is available"


def test_without_a_gpu_it_says_how_to_do_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert not torch.cuda.is_available()
    assert gpu_check.main([]) == 1
    assert "--device cpu --size tiny" in capsys.readouterr().out


# On a card, as far as a CPU can play one


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> EmulatedGraphs:
    made = EmulatedGraphs()
    made.install(monkeypatch)
    stand_ins = {
        "get_device_capability": lambda _: (9, 0),
        "get_device_name": lambda _: H100,
        "is_available": lambda: True,
        "memory_allocated": lambda *_: 5 * GIB,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    return made


def on_card() -> tuple[Card, list[Row]]:
    card = Card(torch.device("cpu"), "tiny")
    card.on_cuda, card.name = True, H100
    return card, list(gpu_check.rows_of(card, gpu_check.PARTS))


def named(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row.name.startswith(name)]


@pytest.mark.usefixtures("graphs")
def test_on_a_card_frames_are_captured_and_held_against_eager_ones_to_the_bit() -> None:
    card, rows = on_card()
    assert not [row for row in rows if row.status == "failed"]
    assert [row.text for row in named(rows, "eager = captured")] == [
        "1x512: 5 of 5 tensors equal to the bit",
        "8x512: 5 of 5 tensors equal to the bit",
    ]
    (frame,) = named(rows, "frame 8x1024")
    assert set(frame.figures) == {"eager_sdpa_ms", "captured_sdpa_ms"}
    captured = {row.name for row in named(rows, "capture")}
    assert captured == {f"capture {shape}" for shape in ("1x512", "1x1024", "8x512", "8x1024")}
    assert {row.name: row.status for row in rows}["memory"] == "ok"
    (pace,) = named(rows, "audio a second")
    (cost,) = named(rows, "cost of an audio hour")
    audio = 8 * 400 / 3 / card.frames_ms[8, 1024]
    assert pace.figures["audio_sec"] == pytest.approx(audio)
    assert cost.figures["usd"] == pytest.approx(3600 * 0.00116 / audio)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize(("scale", "status"), [(1.0, "ok"), (1.03, "failed")])
def test_flash_attention_is_timed_beside_sdpa_and_held_against_what_is_exact(
    monkeypatch: pytest.MonkeyPatch, scale: float, status: str
) -> None:
    monkeypatch.setattr("engines.vibevoice.fast.layers.language.flash_kernel", flash(scale))
    _, rows = on_card()
    assert [row.status for row in named(rows, "attention of")] == [status] * 2
    assert not named(rows, "flash against SDPA")
    assert set(named(rows, "frame 8x1024")[0].figures) == {
        f"{way}_{attention}_ms" for way in ("eager", "captured") for attention in (SDPA, FLASH)
    }


@pytest.mark.usefixtures("graphs")
def test_flash_attention_that_refuses_costs_no_other_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("This flash attention build does not support this head width.")

    monkeypatch.setattr("engines.vibevoice.fast.layers.language.flash_kernel", lambda: refuse)
    _, rows = on_card()
    assert not [row for row in rows if row.status == "failed"]
    assert "This flash attention build" in named(rows, "attention of 16 rows")[0].text
    (frame,) = named(rows, "frame 8x1024")
    assert set(frame.figures) == {"eager_sdpa_ms", "captured_sdpa_ms"}


@pytest.mark.usefixtures("graphs")
def test_a_graph_that_does_other_than_the_frame_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CUDAGraph, "replay", lambda _: None)
    _, rows = on_card()
    assert [row.status for row in named(rows, "eager = captured")] == ["failed"] * 2


def test_a_capture_that_fails_is_a_failed_row_with_its_reason(graphs: EmulatedGraphs) -> None:
    graphs.failing = frozenset(range(1, 100))
    _, rows = on_card()
    first = named(rows, "eager = captured")[0]
    assert first.status == "failed"
    assert first.text.startswith("1x512: none: CUDA error: operation failed")
    assert [row.status for row in named(rows, "frame 8x")] == ["failed"] * 2
    assert named(rows, "audio a second")[0].status == "ok", "frames are made eagerly"


def test_memory_that_grows_fails(graphs: EmulatedGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not graphs.captures
    held = iter(range(GIB, 10**15, 4096))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: next(held))
    _, rows = on_card()
    (row,) = named(rows, "memory")
    assert (row.status, row.text) == ("failed", "+4096 bytes by torch, +0 by the driver")


@pytest.mark.usefixtures("graphs")
def test_a_card_that_is_too_old_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    card = Card(torch.device("cpu"), "tiny")
    card.on_cuda, card.device = True, torch.device("cuda")
    rows = {row.name: row for row in gpu_rows.machine(card)}
    assert rows["compute capability"].status == "failed"
    assert "needs 8.0 (Ampere) or newer" in rows["compute capability"].text


def test_a_way_that_is_wrong_fails_its_row_and_one_that_a_card_has_not_does_not() -> None:
    from engines.vibevoice.fast.layers.kernels import Outcome

    right, wrong = Outcome(0.001, 1e-5), Outcome(0.5, problem="off by 50.0%")
    missing = Outcome(problem="the GPU cannot take a step of the model")
    assert gpu_rows._tried("a", {"one": right, "two": missing}).status == "ok"
    assert gpu_rows._tried("a", {"one": right, "two": wrong}).status == "failed"
    assert gpu_rows._tried("a", {"one": missing}).status == "failed"


# Upstream and the server


def test_upstream_is_left_out_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Card) -> tuple[float, float]:
        raise ImportError("No module named 'vibevoice'")

    monkeypatch.setattr(gpu_full, "_upstream_seconds", missing)
    card = Card(torch.device("cpu"), "tiny")
    assert [row.status for row in gpu_full.upstream(card)] == ["n/a"]
    assert [row.status for row in gpu_full.ratio(card)] == ["n/a"]


def test_upstream_is_timed_and_compared_with_the_same_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_full, "_FRAMES", 3)
    card = Card(torch.device("cpu"), "tiny", vibevoice.volume() / "vibevoice")
    (row,) = gpu_full.upstream(card)
    assert row.status == "ok"
    assert card.upstream_ms == row.figures["ms"]
    card.upstream_ms, card.frames_ms = 30.0, {(1, 512): 10.0, (8, 2048): 20.0}
    assert [row.figures["times"] for row in gpu_full.ratio(card)] == [3, 12]


def test_without_a_model_the_server_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_PATH", raising=False)
    (row,) = gpu_full.server(Card(torch.device("cpu"), "7b"))
    assert (row.status, row.name) == ("n/a", "server")


def test_a_stream_that_comes_later_than_it_plays_is_an_underrun() -> None:
    dry, smooth = gpu_full.Listened(0.1, 2, 0.5), gpu_full.Listened(0.3, 2, 0)
    row = gpu_full._server_row(8, [dry, smooth], 2)
    assert row.status == "ok"
    assert (row.figures["underruns"], row.figures["streams"]) == (1, 2)
    assert row.figures["audio_sec"] == 2
    silent = gpu_full._server_row(8, [gpu_full.Listened(0, 0, 0)], 2)
    assert silent.status == "failed"


# Random weights


@pytest.mark.parametrize("size", ["tiny", "1.5b", "7b"])
def test_random_tensors_have_the_names_and_shapes_of_upstreams(size: str) -> None:
    from accelerate import init_empty_weights

    from engines.vibevoice.code import find_code, import_code

    asked = random_model.config(size)
    upstream = import_code(find_code(vibevoice.volume() / "vibevoice", None))
    decoder = {**asked["decoder_config"], "model_type": "qwen2", "tie_word_embeddings": False}
    head = {**asked["diffusion_head_config"], "latent_size": asked_latent(asked)}
    config = upstream.Config(**{**asked, "decoder_config": decoder, "diffusion_head_config": head})
    with init_empty_weights():
        network = upstream.Model(config)
    theirs = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    ours = random_model.shapes(architecture(asked), tied=asked["tie_word_embeddings"])
    assert {name: theirs.get(name) for name in ours} == ours


def asked_latent(config: dict[str, Any]) -> int:
    latent: int = config["acoustic_tokenizer_config"]["vae_dim"]
    return latent


# The report


def written(path: Path, device: str, pace: float, *rows: Row) -> str:
    speed = ok("audio a second", f"{pace} s", audio_sec=pace)
    made = {
        "schema": 1,
        "size": "7b",
        "device": device,
        "torch": "2.8.0",
        "rows": [row.as_json() for row in (speed, *rows)],
    }
    path.write_text(json.dumps(made))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    slow = written(tmp_path / "l4.json", "NVIDIA L4", 30, failed("memory", "+1"))
    quick = written(
        tmp_path / "h100.json",
        H100,
        250,
        ok("frame 1x2048", "", eager_sdpa_ms=20.0, captured_sdpa_ms=11.0),
        ok("frame 32x2048", "", captured_sdpa_ms=17.04),
        ok("cost of an audio hour", "", usd=0.0167),
        ok("faster than upstream, 1", "", times=6.0),
        ok("faster than upstream, 32", "", times=125.5),
        ok("server, 8 at once", "", p50_ms=201.2, p95_ms=350.0),
    )
    return [slow, quick]


def test_a_table_of_two_cards_has_the_quicker_one_first(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(files) == 0
    head, line, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("| Card | Model | torch | Frame at 1 slot | at 8 | at 32 |")
    assert line.count("---") == head.count("|") - 1
    assert first == (
        f"| {H100} | 7b | 2.8.0 | 11.0 ms | n/a | 17.0 ms | 250 s | $0.0167 | 125.5 x"
        " | 201 (350) ms | nothing |"
    )
    assert second == (
        "| NVIDIA L4 | 7b | 2.8.0 | n/a | n/a | n/a | 30 s | n/a | n/a | n/a | memory |"
    )


def test_a_chart_has_a_bar_for_each_card(files: list[str], tmp_path: Path) -> None:
    written(tmp_path / "odd.json", "<Card> & Co", 125)
    chart = tmp_path / "cards.svg"
    assert report.main([*files, str(tmp_path / "odd.json"), "--svg", str(chart)]) == 0
    drawn = ElementTree.fromstring(chart.read_text())  # noqa: S314 - our own
    bars = [float(each.attrib["width"]) for each in drawn if each.tag.endswith("rect")]
    assert bars[0] == 2 * bars[1] > bars[2] > 0
    said = [each.text for each in drawn if each.tag.endswith("text")]
    assert "250 s, $0.0167 an hour" in said
    assert "<Card> & Co, 7b" in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "gpu_check did not write this"),
        ("no json", "gpu_check did not write this"),
        ("[]", "gpu_check did not write this"),
        ('{"schema": 2, "rows": []}', "schema 2 where 1 is known"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, problem: str
) -> None:
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    assert report.main([str(path)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"report: {path}: {problem}")
    assert not said.out


@pytest.mark.parametrize(
    ("card", "dollars"),
    [
        (H100, 0.00116),
        ("NVIDIA A100-SXM4-80GB", 0.00076),
        ("NVIDIA L40S", 0.00053),
        ("NVIDIA L4", 0.00019),
        ("NVIDIA A40", 0.00034),
        ("NVIDIA RTX A4000", 0.00016),
        ("NVIDIA GeForce RTX 4090", 0.00031),
        ("Tesla T4", None),
        ("AMD EPYC, 2 cores", None),
    ],
)
def test_prices_go_by_the_cards_name(card: str, dollars: float | None) -> None:
    assert gpu_prices.price(card) == dollars

"""How many slots fit into the cards that people use, by arithmetic."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from engines.vibevoice.fast.capacity import capacity_for, longest_for, slots_for

GIB = 1 << 30
FREE = {
    "16": 15.6,
    "20": 19.6,
    "L4": 22.0,
    "4090": 23.1,
    "32": 30.9,
    "40": 38.9,
    "48": 44.0,
    "80": 78.5,
}


def model(size: str) -> tuple[Any, float]:
    """What a model's keys and values take, and its weights in GiB."""
    kv_heads, weights = {"7b": (4, 16.39), "1.5b": (2, 5.04)}[size]
    sizes = SimpleNamespace(
        hop=3200,
        context=65_536,
        kv_values=2 * 28 * kv_heads * 128,
        decoder=SimpleNamespace(widths=(2048, 32)),
    )
    return SimpleNamespace(architecture=sizes, dtype=SimpleNamespace(itemsize=2)), weights


@pytest.mark.parametrize(
    ("size", "card", "slots", "capacity", "longest"),
    [
        ("7b", "20", 2, 4096, 4096),
        ("7b", "L4", 8, 4096, 4096),
        ("7b", "4090", 8, 4096, 4096),
        ("7b", "32", 16, 4096, 4096),
        ("7b", "40", 32, 4096, 4096),
        ("7b", "48", 32, 4096, 4096),
        ("7b", "80", 32, 4096, 8192),
        ("1.5b", "16", 32, 4096, 4096),
        ("1.5b", "4090", 32, 4096, 4096),
        ("1.5b", "48", 32, 4096, 8192),
    ],
)
def test_slots_of_a_card(size: str, card: str, slots: int, capacity: int, longest: int) -> None:
    weights, taken = model(size)
    free = int((FREE[card] - taken) * GIB)
    assert slots_for(weights, free) == slots
    assert capacity_for(weights, free, slots) == capacity
    assert longest_for(weights, free, slots) == longest


def test_slots_that_somebody_asked_for_may_be_shorter_and_are_never_longer_than_the_model() -> None:
    weights, _ = model("7b")
    assert capacity_for(weights, 8 * GIB, 32) == 2048
    assert longest_for(weights, 8 * GIB, 32) == 2048
    assert longest_for(weights, 4000 * GIB, 1) == 65_536

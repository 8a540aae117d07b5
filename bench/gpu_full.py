"""What only `gpu_check --full` asks: upstream on the same device, and the whole server."""

from collections.abc import Iterator

from bench.gpu_card import Card
from bench.gpu_row import Row, not_here


def upstream(card: Card) -> Iterator[Row]:
    yield not_here("upstream", "")


def ratio(card: Card) -> Iterator[Row]:
    yield not_here("upstream", "")


def server(card: Card) -> Iterator[Row]:
    yield not_here("upstream", "")

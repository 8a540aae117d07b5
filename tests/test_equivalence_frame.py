"""Our frame against upstream's `generate`: real depth, little width, tokens that are given."""

import functools
from collections.abc import Sequence
from typing import Any

import pytest

from engines.base import PlannedChunk, Turn
from tests import vibevoice_fixtures as vibevoice  # skips where torch is missing

from torch.overrides import TorchFunctionMode  # isort: skip
from torch.utils._python_dispatch import TorchDispatchMode  # isort: skip
from torch.utils._pytree import tree_leaves  # isort: skip

from engines.vibevoice.fast.graph_shape import GraphShape  # isort: skip
from engines.vibevoice.fast.step import Step  # isort: skip
from engines.vibevoice.fast.layers.noise import Noise  # isort: skip
from engines.vibevoice.fast.slots import IDLE, Slots  # isort: skip
from engines.vibevoice.fast.layers.weights import load_weights  # isort: skip
from tests.narrow_model import TOKENS, generate, narrow_network, sizes_of, weights_of  # isort: skip

torch = vibevoice.torch
pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)

CPU = torch.device("cpu")
CAPACITY = 256
S, E, D, X = TOKENS.start, TOKENS.end, TOKENS.diffusion, TOKENS.eos


@functools.cache
def network() -> Any:
    return narrow_network(code=vibevoice.volume() / "vibevoice")


@functools.cache
def frame() -> Step:
    return Step(weights_of(network()), TOKENS, CAPACITY)


def prompt(seed: int) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    length = 10 + 7 * (seed % 5)
    return [*torch.randint(15, 32, (length,), generator=draw).tolist(), S]


class Case:
    """A prompt and the tokens that come: segments of speech that end and start again, one that
    starts again without an end, frames after an end without a start."""

    SCHEDULES = (
        [D] * 4 + [E, S] + [D] * 3 + [E, X],
        [D] * 6 + [E, X],
        [D] * 2 + [E, S] + [D] + [E, S] + [D] * 4 + [X],
        [D] * 3 + [S] + [D] * 3 + [X],
        [D] * 2 + [E] + [D] * 3 + [S, E, S] + [D] * 2 + [X],
        [S] + [D] * 5 + [X],
        [D] * 8 + [X],
        [E, S] + [D] * 3 + [X],
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.schedule: list[int] = self.SCHEDULES[number]
        self.prompt = prompt(number)
        self.steps = (10, 10, 10, 5)[number % 4]
        self.guidance = (1.3, 3.0, 0.7)[number % 3]

    @functools.cached_property
    def wanted(self) -> Any:
        return generate(
            network(),
            self.prompt,
            self.schedule,
            seed=self.number,
            steps=self.steps,
            guidance=self.guidance,
        )


@functools.cache
def case(number: int) -> Case:
    return Case(number)


def new_slots(count: int) -> Slots:
    made = frame()
    return Slots(
        made.weights.architecture,
        count,
        CAPACITY,
        len(TOKENS.choices),
        (made.decoder, made.encoder),
        CPU,
        torch.float32,
    )


@torch.inference_mode()  # type: ignore[untyped-decorator]
def admit(slots: Slots, slot: int, case: Case) -> None:
    made = frame()
    x = made.weights.embedding[torch.tensor(case.prompt)]
    made.language.prefill(x[:-1], 0, slots.cache, 2 * slot)
    noise = Noise(PlannedChunk((Turn(0, ""),), case.number), CPU, with_voices=False)
    slots.admit(
        slot,
        start=x[-1],
        length=len(x),
        limit=100,
        steps=case.steps,
        guidance=case.guidance,
        noise=noise.frames(len(case.schedule), made.weights.architecture.latent),
    )


def run(count: int, arrivals: Sequence[tuple[int, Case]], context: int = 128) -> list[Any]:
    """What comes for cases that arrive at given frames, each in the lowest slot that is free."""
    slots = new_slots(count)
    waiting = list(enumerate(arrivals))
    inside: dict[int, tuple[int, Case, list[int]]] = {}
    heard: list[list[Any]] = [[] for _ in arrivals]
    now = 0
    while waiting or inside:
        while waiting and waiting[0][1][0] <= now and len(inside) < count:
            index, (_, arrived) = waiting.pop(0)
            slot = min(set(range(count)) - set(inside))
            admit(slots, slot, arrived)
            inside[slot] = (index, arrived, list(arrived.schedule))
        slots.preference.zero_()
        for slot, (_, _, left) in inside.items():
            slots.preference[slot, TOKENS.choices.index(left[0])] = 1e9
        for steps in {arrived.steps for _, arrived, _ in inside.values()}:
            frame()(slots, GraphShape(count, context, steps))
            for slot, (index, _, left) in list(inside.items()):
                if slots.chosen[slot] == IDLE:
                    continue
                token = left.pop(0)
                assert TOKENS.choices[slots.chosen[slot]] == token
                if token == D:
                    heard[index].append(slots.audio[slot].clone())
                if token == X:
                    assert not slots.active[slot]
                    del inside[slot]
        now += 1
    return [torch.cat(parts) for parts in heard]


def error(ours: Any, theirs: Any) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


@pytest.mark.parametrize("number", range(len(Case.SCHEDULES)))
def test_one_slot_speaks_as_upstream_does(number: int) -> None:
    (heard,) = run(1, [(0, case(number))])
    assert error(heard, case(number).wanted) < 1e-4


@pytest.mark.parametrize("count", [3, 8])
def test_many_slots_reused_and_filled_at_any_frame_speak_as_upstream_does(count: int) -> None:
    arrivals = [(frame, case(frame * 3 % 8)) for frame in range(11)]
    for heard, (_, arrived) in zip(run(count, arrivals), arrivals, strict=True):
        assert error(heard, arrived.wanted) < 1e-4


def test_the_size_of_the_context_makes_no_difference() -> None:
    for context in (64, 256):
        assert error(run(2, [(0, case(0))], context)[0], case(0).wanted) < 1e-4


def test_what_is_in_the_other_slots_makes_no_difference() -> None:
    """Nor when a chunk was admitted: to the bit where the shape is the same."""
    (alone,) = run(4, [(0, case(0))])
    crowded = run(4, [(0, case(6)), (0, case(1)), (2, case(5)), (3, case(0))])[3]
    assert torch.equal(alone, crowded)


def test_a_slot_that_is_not_in_the_shape_keeps_its_state() -> None:
    slots = new_slots(2)
    admit(slots, 0, case(0))
    admit(slots, 1, case(3))  # five steps
    before = [t[1].clone() for t in (slots.x, slots.lengths, slots.past, slots.used, slots.left)]
    slots.preference[:, TOKENS.choices.index(D)] = 1e9
    frame()(slots, GraphShape(2, 128, 10))
    after = [t[1] for t in (slots.x, slots.lengths, slots.past, slots.used, slots.left)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert slots.chosen.tolist() == [TOKENS.choices.index(D), IDLE]
    assert slots.active.all()


def test_a_limit_ends_a_slot() -> None:
    slots = new_slots(1)
    admit(slots, 0, case(0))
    slots.left[0] = 3
    slots.preference[:, TOKENS.choices.index(D)] = 1e9
    active = []
    for _ in range(4):
        frame()(slots, GraphShape(1, 128, 10))
        active.append(bool(slots.active[0]))
    assert active == [True, True, False, False]
    assert slots.chosen.tolist() == [IDLE]


class Watch(TorchFunctionMode):
    """Notes what would wait for a GPU, or could not be captured as a graph: values that the host
    asks for, tensors that it makes."""

    VALUES = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
    SHAPES = ("nonzero", "masked_select", "equal", "allclose")
    MADE = ("tensor", "as_tensor", "from_numpy")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        name = func.__name__
        masks = args[1:2] if name in ("__getitem__", "__setitem__") else ()
        if name in self.VALUES + self.SHAPES + self.MADE or any(
            getattr(each, "dtype", None) == torch.bool for each in masks
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_a_frame_asks_for_no_value_and_takes_none_from_the_host() -> None:
    slots = new_slots(2)
    admit(slots, 0, case(0))
    shape = GraphShape(2, 128, 10)
    frame()(slots, shape)  # what is made once is made now
    with Watch() as watch:
        frame()(slots, shape)
        assert watch.found == []
        assert watch.count > 1000
        float(slots.x[0, 0])  # and it would be seen
        slots.active.tolist()
        slots.x[slots.active]
        torch.tensor([1])
    assert watch.found == ["__float__", "tolist", "__getitem__", "tensor"]


class Strays(TorchDispatchMode):
    """Notes the operations that meet a tensor of the host's."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += 1
        met = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
        if any(each.device.type == "cpu" for each in met):
            self.found.append(str(func))
        return out


@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_all_that_a_frame_touches_is_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without values, by the ways that a GPU takes, in half precision."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    net, meta = network(), torch.device("meta")
    tensors = net.state_dict()

    def source(name: str) -> Any:
        return tensors[name] if name.endswith("_factor") else tensors[name].to(meta)

    sizes = sizes_of(net)
    weights = load_weights(source, sizes, TOKENS.choices, meta, torch.bfloat16)
    made = Step(weights, TOKENS, CAPACITY)
    codecs = (made.decoder, made.encoder)
    slots = Slots(sizes, 3, CAPACITY, len(TOKENS.choices), codecs, meta, torch.bfloat16)
    made(slots, GraphShape(3, 128, 10))  # what is made once is made now
    with Strays() as found_in_frames:
        made.language.prefill(slots.x[:2], 5, slots.cache, 2)
        made(slots, GraphShape(3, 128, 10))
        slots.release(1, wipe=True)
        slots.grow(2 * CAPACITY)
    with Strays() as found_while_growing:
        made.grow(2 * CAPACITY)
    with found_in_frames:
        made(slots, GraphShape(2, 2 * CAPACITY, 10))
    assert found_in_frames.found == []
    assert found_in_frames.count > 3000
    assert found_while_growing.found, "a rotation's angles are worked out on the host: it is seen"

"""The CUDA path of the fast runtime at full size, on the `meta` device: shapes and no values.

Our own code runs and takes the ways that it takes on a GPU. A trace sees each operation of it: it
counts kernels and notes what a GPU, or a CUDA graph, would not bear. `FakeTensorMode` cannot do it:
indexing takes a device guard, which needs a driver.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.random_model import checkpoint_of, random_weights
from engines.vibevoice.fast.batch import Batch
from engines.vibevoice.fast.graph_shape import GraphShape
from engines.vibevoice.fast.layers import language, noise

META = torch.device("meta")
_ENGINE = "engines/vibevoice"
_SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")
_RANDOM = ("random", "normal", "bernoulli", "rand", "uniform", "multinomial")
_NO_KERNEL = ("empty", "empty_like", "new_empty", "empty_strided", "lift_fresh", "_unsafe_view")
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "lerp", "index_put_")
"""They take one dtype on a GPU. Others convert."""


def tensors(of: Any) -> list[Tensor]:
    return [each for each in tree_leaves(of) if isinstance(each, Tensor)]


def forbidden(name: str, args: Any) -> str | None:
    """Why a capture cannot hold an operation."""
    if name in _SYNCS:
        return "waits for the device"
    if any(mark in name for mark in _RANDOM):
        return "random numbers"
    if name.startswith(("index", "_index")) and any(
        each.dtype in (torch.bool, torch.uint8) for each in tensors(args[1])
    ):
        return "boolean index"  # waits, to count what is true
    return None


class Trace(TorchDispatchMode):
    """`kernels` by operation, as CUDA launches them at least, and `faults`, each with its place.

    Composite operations are taken apart, since CUDA has no kernel for them. A product copies an
    addend that is a matrix first; a convolution's bias is a kernel of its own. Products that are
    split along their inputs take one more, which this cannot see.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.pinned: dict[int, Tensor] = {}

    @property
    def count(self) -> int:
        return self.kernels.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        name = func._schema.name.split("::")[1]
        self._check(name, args, kwargs)
        out = func(*args, **kwargs)
        if name == "convolution" and args[0].is_contiguous(memory_format=torch.channels_last):
            # As cuDNN lays it out. The meta device does not in every version.
            out = torch.empty_like(out, memory_format=torch.channels_last)
        used = tensors((args, kwargs, out))
        on_device = [each for each in used if each.device == META]
        if on_device and not func.is_view:
            self.kernels[name] += self._launched(name, args)
        if on_device and len(on_device) < len(used):
            self._mixed(name, args, kwargs, used)
        return out

    @staticmethod
    def _launched(name: str, args: Any) -> int:
        if name in _NO_KERNEL:
            return 0
        copied = name == "addmm" and args[0].dim() == 2
        biased = name == "convolution" and args[2] is not None
        return 1 + copied + biased

    def _check(self, name: str, args: Any, kwargs: Any) -> None:
        given = tensors((args, kwargs))
        on_device = any(each.device == META for each in given)
        if on_device and (fault := forbidden(name, args)):
            self.fault(fault, name)
        dtypes = {each.dtype for each in given if each.is_floating_point()}
        if name in _PRODUCTS and len(dtypes) > 1:
            self.fault(f"dtypes {sorted(map(str, dtypes))}", name)

    def _mixed(self, name: str, args: Any, kwargs: Any, used: list[Tensor]) -> None:
        """Tensors of both devices: numbers, and copies out of pinned memory, are no fault."""
        on_host = [each for each in used if each.device != META]
        if name not in ("copy_", "_to_copy"):
            if any(each.dim() for each in on_host):
                self.fault("mixed devices", name)
        elif not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))):
            self.fault("a copy that waits", name)
        elif any(each.untyped_storage()._cdata not in self.pinned for each in on_host):
            self.fault("a copy of memory that is not pinned", name)

    def fault(self, what: str, name: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if _ENGINE in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "test"
        self.faults[f"{what}: {name}, {place}"] += 1


def efficient_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """What SDPA with a mask is on a GPU, and what that kernel asks for."""
    taken = (query, key, value, bias)
    assert len({each.dtype for each in taken}) == 1, "the kernel has one dtype"
    assert all(each.stride(-1) == 1 for each in taken), "the last axis is contiguous"
    assert query.shape[-1] % 8 == 0, "heads are aligned to 16 bytes"
    assert query.shape[:2] == key.shape[:2] == value.shape[:2], "no heads are shared"
    if any(stride % 8 for stride in bias.stride()[:-1]):
        count = bias.shape[-1]
        bias = functional.pad(bias, (0, -count % 8))[..., :count]
    bias = bias.expand(*query.shape[:3], key.shape[2])
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, False
    )[0]
    return out


def flash_attention(query: Tensor, keys: Tensor, values: Tensor, cache_seqlens: Tensor) -> Tensor:
    """flash-attn's kernel for KV caches: one launch, and what it asks for."""
    rows, _, heads, width = query.shape
    assert query.dtype == keys.dtype == values.dtype == torch.bfloat16
    assert all(each.stride(-1) == 1 for each in (query, keys, values))
    assert keys.shape == values.shape
    assert (keys.shape[0], keys.shape[3]) == (rows, width)
    assert heads % keys.shape[2] == 0
    assert width % 8 == 0
    assert width <= 256
    assert cache_seqlens.dtype == torch.int32
    assert cache_seqlens.is_contiguous()
    assert cache_seqlens.shape == (rows,)
    return query.clone(memory_format=torch.contiguous_format)


class Gpu:
    """A batch at full size that believes it is on a GPU."""

    def __init__(self, size: str, slots: int, *, flash: bool = False) -> None:
        self.pinned: dict[int, Tensor] = {}
        with self.on():
            weights, tokenizer = random_weights(size, META)
            self.batch = Batch(
                weights,
                tokenizer,
                lambda samples: samples,
                checkpoint_of(weights),
                slots=slots,
                cache_bytes=1 << 30,
                flash=flash,
            )
            self.batch._on_cuda, self.batch.lag, self.batch.context_step = True, 1, None
            self.batch.graphs._on_cuda = True

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        trace = Trace()
        trace.pinned = self.pinned
        tensor = torch.tensor

        def made(data: Any, **options: Any) -> Tensor:
            """For the meta device no copy is dispatched."""
            if options.get("device") == META:
                trace.fault("a copy that waits", "tensor")
            return tensor(data, **options)

        with (
            self.on(),
            mock.patch.object(torch, "tensor", made),
            torch.inference_mode(),
            trace,
        ):
            yield trace

    def frame(self, context: int, steps: int = 10) -> Trace:
        """A frame of all slots, the second of its kind: what is made once is there."""
        shape = GraphShape(self.batch.slots, context, steps)
        with self.on():
            self.batch.step(self.batch.state, shape)
        with self.trace() as trace:
            self.batch.step(self.batch.state, shape)
        return trace

    @contextmanager
    def on(self) -> Iterator[None]:
        stand_ins: dict[tuple[Any, str], Any] = {
            (Tensor, "is_cuda"): property(lambda tensor: tensor.device == META),
            (Tensor, "pin_memory"): lambda tensor, *_: self._pin(tensor),
            (functional, "scaled_dot_product_attention"): efficient_attention,
            (language, "flash_kernel"): lambda: flash_attention,
            (noise, "Generator"): _Generator,
            (torch.cuda, "graph_pool_handle"): lambda: (0, 1),
            (torch.cuda, "mem_get_info"): lambda *_: (64 << 30, 80 << 30),
            (torch.cuda, "synchronize"): lambda *_: None,
        }
        with ExitStack() as stack:
            for (owner, name), stand_in in stand_ins.items():
                stack.enter_context(mock.patch.object(owner, name, stand_in))
            yield

    def _pin(self, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        self.pinned[copy.untyped_storage()._cdata] = copy
        return copy


class _Generator:
    """There are none on the meta device."""

    def __new__(cls, *_: object) -> Any:
        return torch._C.Generator()

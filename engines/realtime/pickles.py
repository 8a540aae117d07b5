"""Reads upstream's preset pickles without unpickling: a machine of its own for a few opcodes.

Nothing of a file is imported, called or built. Five names are known, and each is a mark in the
result. A file with any other name or opcode, or with a size that does not fit, is refused.
"""

import math
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OUTPUT = "transformers.modeling_outputs BaseModelOutputWithPast"
CACHE = "transformers.cache_utils DynamicCache"
_REBUILD = "torch._utils _rebuild_tensor_v2"
_STORAGE = "torch BFloat16Storage"
_HOOKS = "collections OrderedDict"
NAMES = (OUTPUT, CACHE, _REBUILD, _STORAGE, _HOOKS)

_LARGEST_FILE, _LARGEST_PICKLE, _MOST_DIMS = 64 << 20, 1 << 20, 8
_WIDTH = 2  # bytes of a bfloat16


class Refused(Exception):
    """The file is no preset of upstream's; the message says why."""


@dataclass(frozen=True, slots=True)
class Name:
    """One of `NAMES`, where the file names a class or a function."""

    name: str


@dataclass(slots=True)
class Instance:
    """An object of the class `kind`, as the file describes it."""

    kind: str
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[str, Any] = field(default_factory=dict)


def read(file: Path) -> Any:
    """What a file holds: dicts, lists, tuples, `Instance`s and tensors. Raises `Refused`."""
    try:
        size = file.stat().st_size
        if size > _LARGEST_FILE:
            raise Refused("it is larger than any preset")
        if not size:
            raise Refused("it is empty")
        with zipfile.ZipFile(file) as archive:
            return _Machine(archive).run()
    except zipfile.BadZipFile:
        raise Refused("it is cut, or no file of PyTorch's") from None
    except (OSError, RuntimeError, NotImplementedError) as problem:
        raise Refused(f"it is no file of PyTorch's ({type(problem).__name__})") from None


class _Machine:
    """A stack machine for one pickle. Every operand comes off the stack or out of the file."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = {each.filename: each for each in archive.infolist()}
        packed = [name for name in self._members if name.count("/") == 1 and name.endswith(".pkl")]
        if len(packed) != 1:
            raise Refused("it does not hold one pickle")
        self._root = packed[0].partition("/")[0]
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        pickle = self._bytes("data.pkl", _LARGEST_PICKLE)
        if "byteorder" not in self._inside() or self._bytes("byteorder", 8) != b"little":
            raise Refused("its numbers are not little-endian")
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "STOP":
                    return self._pop(1)[0]
                self._do(opcode.name, argument)
        except (ValueError, UnicodeError) as problem:
            raise Refused(f"its pickle is damaged ({type(problem).__name__})") from None
        raise Refused("its pickle has no end")

    def _inside(self) -> set[str]:
        return {name.removeprefix(f"{self._root}/") for name in self._members}

    def _bytes(self, name: str, most: int) -> bytes:
        member = self._members.get(f"{self._root}/{name}")
        if member is None or member.file_size > most:
            raise Refused(f"its part {name[:40]!r} is missing or too large")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise Refused(f"its part {name[:40]!r} is compressed")
        return self._archive.read(member)

    def _do(self, opcode: str, argument: Any) -> None:
        if opcode in ("BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINUNICODE"):
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode]())
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._top()
        elif opcode in ("BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise Refused("its pickle refers to nothing")
            self._stack.append(self._memo[argument])
        elif opcode == "MARK":
            self._marks.append(len(self._stack))
        elif opcode == "GLOBAL":
            if argument not in NAMES:
                raise Refused(f"it names {str(argument)[:80]!r}, which no preset needs")
            self._stack.append(Name(argument))
        elif opcode in _OPERATIONS:
            _OPERATIONS[opcode](self)
        elif opcode != "PROTO":
            raise Refused(f"its pickle has the opcode {opcode}, which no preset needs")

    def _top(self) -> Any:
        if not self._stack:
            raise Refused("its pickle takes more than it has")
        return self._stack[-1]

    def _pop(self, count: int) -> list[Any]:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - count < floor:
            raise Refused("its pickle takes more than it has")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        if not self._marks:
            raise Refused("its pickle takes more than it has")
        return self._pop(len(self._stack) - self._marks.pop())

    def _tuple(self, count: int) -> None:
        self._stack.append(tuple(self._pop(count)))

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self._top(), list):
            raise Refused("its pickle appends to what is no list")
        self._top().extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        target = target.items if isinstance(target, Instance) else target
        names = values[::2]
        if not isinstance(target, dict) or len(values) % 2:
            raise Refused("its pickle sets items of what is no dict")
        if not all(isinstance(name, str) for name in names):
            raise Refused("its pickle has keys that are no text")
        target.update(zip(names, values[1::2], strict=True))

    def _call(self) -> None:
        callee, arguments = self._pop(2)
        if not (isinstance(callee, Name) and isinstance(arguments, tuple)):
            raise Refused("its pickle calls what is no name")
        if callee.name == _REBUILD:
            self._stack.append(self._tensor(arguments))
        elif callee.name == _HOOKS and not arguments:
            self._stack.append({})
        elif callee.name in (OUTPUT, CACHE):
            self._stack.append(Instance(callee.name, arguments))
        else:
            raise Refused(f"its pickle calls {callee.name}")

    def _build(self) -> None:
        target, state = self._pop(2)
        if not isinstance(target, Instance):
            raise Refused("its pickle sets the state of what is no object")
        target.state = state
        self._stack.append(target)

    def _storage(self) -> None:
        (found,) = self._pop(1)
        fits = isinstance(found, tuple) and len(found) == 5
        if not fits or found[:2] != ("storage", Name(_STORAGE)):
            raise Refused("its pickle refers to what is no storage of bfloat16")
        key, count = found[2], found[4]
        if not (isinstance(key, str) and key.isdecimal() and type(count) is int and count > 0):
            raise Refused("its storage has no name or size")
        data = self._bytes(f"data/{key}", _LARGEST_FILE)
        if len(data) != count * _WIDTH:
            raise Refused("its storage is not as long as it says")
        self._stack.append(torch.frombuffer(bytearray(data), dtype=torch.bfloat16))

    @staticmethod
    def _tensor(arguments: tuple[Any, ...]) -> Tensor:
        if len(arguments) != 6 or not isinstance(arguments[0], Tensor):
            raise Refused("its pickle makes a tensor of what is no storage")
        storage, (offset, size, stride) = arguments[0], arguments[1:4]
        numbers = (size, stride) if isinstance(size, tuple) and isinstance(stride, tuple) else None
        if numbers is None or not all(
            type(each) is int and each >= 0 for each in (offset, *size, *stride)
        ):
            raise Refused("its tensor has no sizes")
        if len(size) != len(stride) or len(size) > _MOST_DIMS:
            raise Refused("its tensor has no sizes")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if not all(size) or last >= len(storage) or math.prod(size) > len(storage):
            raise Refused("its tensor reaches behind its storage")
        return storage.as_strided(size, stride, offset)


_CONSTANTS: Mapping[str, Any] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_OPERATIONS: Mapping[str, Any] = {
    "TUPLE": lambda machine: machine._stack.append(tuple(machine._marked())),
    "TUPLE1": lambda machine: machine._tuple(1),
    "TUPLE2": lambda machine: machine._tuple(2),
    "TUPLE3": lambda machine: machine._tuple(3),
    "APPEND": lambda machine: machine._append(machine._pop(1)),
    "APPENDS": lambda machine: machine._append(machine._marked()),
    "SETITEM": lambda machine: machine._set(machine._pop(2)),
    "SETITEMS": lambda machine: machine._set(machine._marked()),
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._storage,
}

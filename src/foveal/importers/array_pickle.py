"""Reads a pickle of plain numpy arrays without unpickling: detectron2's .pkl files.

Unpickling calls whatever a file names. Here nothing is called: the few instructions that a dictionary of arrays needs
are carried out on values of our own, and the names that numpy writes into such a file are only recognised. Any other
instruction or name ends the reading. No array is larger than its bytes in the file, all that is made is at most twice
the file, and the instructions are counted. Values that the file made are never printed, compared or hashed as a whole:
a few nested tuples of one another would keep that busy for ever.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.names import printable

MAX_DIMS = 8
MAX_STEPS = 2_000_000
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")


class RefusedPickleError(Exception):
    """The pickle is damaged, or more than a dictionary of plain arrays; the message says which, after a file's name."""


@dataclass(frozen=True)
class _Name:
    """Something that the file wants called; `full` is only compared."""

    full: str


@dataclass
class _Kind:
    """numpy's dtype as the file describes it."""

    code: str
    order: str = "|"


@dataclass
class _Array:
    """A place for numpy's array, which the file names first and describes later."""

    array: np.ndarray | None = None


# As numpy 1 and 2 write them; both are the same once `_core` is `core`.
_RECONSTRUCT = "numpy.core.multiarray._reconstruct"
_SCALAR = "numpy.core.multiarray.scalar"
_FROM_BUFFER = "numpy.core.numeric._frombuffer"
_KNOWN = {
    _RECONSTRUCT,
    _SCALAR,
    _FROM_BUFFER,
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "collections.OrderedDict",
    "builtins.bytes",
    "builtins.bytearray",
}


def read_array_pickle(data: bytes) -> Any:
    """What the pickle holds: a dictionary of numbers, text and numpy arrays, or of dictionaries of those.

    Keys are text or whole numbers. RefusedPickleError for anything else, before it was built.
    """
    machine = _Machine(2 * len(data) + 2**16)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step == MAX_STEPS:
                raise RefusedPickleError("takes more steps than any dictionary of arrays and is not read to its end")
            machine.do(opcode.name, argument)
    except RefusedPickleError:
        raise
    except Exception as error:  # whatever damaged bytes lead to
        raise RefusedPickleError(
            f"is damaged or cut off ({printable(' '.join(str(error).split()))}); fetch it again"
        ) from None
    if type(machine.result) is not dict:
        raise RefusedPickleError(
            "holds no dictionary of arrays; save its state dict with torch.save or as .safetensors"
        )
    return {
        key: {inner: _content(v) for inner, v in value.items()} if type(value) is dict else _content(value)
        for key, value in machine.result.items()
    }


def _content(value: Any) -> Any:
    # Deeper ones may hold themselves, or one another again and again; no weights lie there.
    if type(value) is dict:
        raise RefusedPickleError(
            "holds dictionaries in the dictionaries beside or among its arrays; save its state dict alone"
        )
    return value.array if isinstance(value, _Array) else value


class _Machine:
    """A stack, places marked on it and a memo, as a pickle expects them; `left` bytes may still be made."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def do(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "FRAME"):
            return
        if name in _PUSHES:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise RefusedPickleError(
                f"holds more than plain arrays (the instruction {name}) and is not opened; save its state dict with "
                "torch.save or as .safetensors"
            )

    def above_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def stop(self, _: Any) -> None:
        self.result = self.stack.pop()

    def tuple_of(self, count: int | None) -> None:
        values = self.above_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedPickleError("is damaged: it adds to what is no list; fetch it again")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise RefusedPickleError("is damaged: it sets an entry of what is no dictionary; fetch it again")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing a key could take for ever: tuples of tuples of one tuple have no end that a machine sees.
            if not isinstance(key, str | int):
                raise RefusedPickleError("holds more than plain arrays (keys that are not names) and is not opened")
            target[key] = value

    def name(self, full: str) -> None:
        full = full.replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
        if full not in _KNOWN:
            raise RefusedPickleError(
                f"wants {printable(full)} called and is not opened, because that could run a stranger's code; save its "
                "state dict with torch.save or as .safetensors"
            )
        self.stack.append(_Name(full))

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "something unnamed")

    def reduce(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise RefusedPickleError("is damaged: it calls what has no name; fetch it again")
        self.stack.append(self.counted(_called(called.full, arguments)))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Kind) and isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
            target.order = state[1]
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, kind, fortran, raw = state
            target.array = self.counted(_array(shape, kind, "F" if fortran else "C", raw))
        else:
            raise RefusedPickleError("holds more than plain arrays (an object with a state) and is not opened")

    def counted(self, value: Any) -> Any:
        self.left -= value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, bytes) else 0
        if self.left < 0:
            raise RefusedPickleError(
                "would unroll to more than twice its size, so it is made to fill the memory, and is not opened"
            )
        return value


# Values that stand in the file as they are.
_PUSHES = set(
    """
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    BININT BININT1 BININT2 LONG1 BINFLOAT
    """.split()
)
_NEW: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "STOP": _Machine.stop,
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.above_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "GLOBAL": lambda machine, argument: machine.name(str(argument).replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    """What numpy's and Python's own functions would have answered; none of them is called."""
    if name == _RECONSTRUCT and arguments and isinstance(arguments[0], _Name):
        return _Array()
    if name == _FROM_BUFFER and len(arguments) in (4, 5):
        raw, kind, shape, order = arguments[:4]
        array = _array(shape, kind, order, raw)
        # Order K is C in the order of these axes.
        axes = arguments[4] if len(arguments) == 5 and order == "K" else tuple(range(array.ndim))
        if isinstance(axes, tuple) and all(type(n) is int for n in axes) and sorted(axes) == list(range(array.ndim)):
            return array.transpose(axes)
    if name == _SCALAR and len(arguments) == 2:
        return _array((), arguments[0], "C", arguments[1]).item()
    if name == "numpy.dtype" and arguments and isinstance(arguments[0], str):
        return _Kind(arguments[0])
    if name == "_codecs.encode" and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    if name == "collections.OrderedDict" and not arguments:
        return {}
    if name in ("builtins.bytes", "builtins.bytearray") and len(arguments) <= 1:
        raw = arguments[0] if arguments else b""
        if isinstance(raw, bytes):
            return raw
    raise RefusedPickleError(f"holds more than plain arrays ({name} of something else) and is not opened")


def _array(shape: Any, kind: Any, order: Any, raw: Any) -> np.ndarray:
    """The array of `raw` bytes, which must be exactly those of its shape."""
    if isinstance(raw, str):  # as Python 2 wrote bytes
        raw = raw.encode("latin1")
    if not isinstance(kind, _Kind) or kind.code not in KINDS or not isinstance(raw, bytes | bytearray):
        raise RefusedPickleError("holds arrays of something other than numbers and is not opened")
    sound = isinstance(shape, tuple) and len(shape) <= MAX_DIMS and all(type(n) is int and n >= 0 for n in shape)
    if not sound or math.prod(shape) * int(kind.code[1:]) != len(raw):
        raise RefusedPickleError("is damaged: an array's shape does not fit its bytes; fetch it again")
    dtype = np.dtype(("<" if kind.order not in "<>" else kind.order) + kind.code)
    return np.frombuffer(bytes(raw), dtype).reshape(shape, order="F" if order == "F" else "C")

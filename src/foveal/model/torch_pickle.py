"""Walks the pickle of a .pth file before torch reads it, and lets through only what a state dict needs.

torch's `weights_only` reader runs no stranger's code, but it makes a bytearray of any size, copies values as often as a
file wants and hashes nested tuples for ever. Here nothing is made: each value is a note of what it would be.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from foveal.names import printable

MAX_STEPS = 2_000_000
"""Instructions, and values that they copy. A ResNet-152 with its optimiser takes some 50,000."""

# What torch.save writes for tensors, parameters and their dictionaries; a schedule's milestones are a Counter.
_CALLED = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "collections.Counter",
}


class RefusedTorchPickleError(Exception):
    """The pickle is more than a state dict or damaged; the message says which, after a file's name.

    whole: whether it wants something called or named that a state dict has no need of.
    """

    def __init__(self, message: str, whole: bool = False):
        super().__init__(message)
        self.whole = whole


def check_torch_pickle(file: IO[bytes], size: int) -> None:
    """Walks one pickle from where `file` stands to its end; RefusedTorchPickleError if torch should not read it.

    size: bytes of the whole weight file, more than which no storage may claim.
    """
    machine = _Machine(size)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.do(opcode.name, argument)
    except RefusedTorchPickleError:
        raise
    except Exception as error:  # whatever damaged bytes lead to
        raise RefusedTorchPickleError(
            f"is damaged or no weight file ({printable(' '.join(str(error).split()))}); fetch it again"
        ) from None


@dataclass(eq=False)
class _Value:
    """kind: name, key (text or a number), tuple, dict, ordered, list or other. count: of what a copy would copy."""

    kind: str
    value: Any = None
    items: list[_Value] = field(default_factory=list)
    count: int = 0


class _Machine:
    """A stack, marks on it and a memo, as a pickle expects them."""

    def __init__(self, size: int):
        self.size = size
        self.storages: dict[Any, int] = {}
        self.steps = 0
        self.stack: list[_Value] = []
        self.marks: list[list[_Value]] = []
        self.memo: dict[int, _Value] = {}

    def do(self, name: str, argument: Any) -> None:
        self._take(1)
        if name in ("PROTO", "STOP"):
            return
        if name == "GLOBAL":
            self.stack.append(_Value("name", _allowed(argument.replace(" ", "."))))
        elif name in _MAKES:
            kind = _MAKES[name]
            self.stack.append(_Value(kind, argument if kind == "key" else None))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            items = self._to_mark() if name == "TUPLE" else [self.stack.pop() for _ in range(int(name[-1]))][::-1]
            self.stack.append(_Value("tuple", items=items, count=len(items)))
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [self.stack.pop()]
            self.stack[-1].count += len(items)
        elif name in ("SETITEM", "SETITEMS"):
            self._set(self._to_mark() if name == "SETITEMS" else [self.stack.pop() for _ in range(2)][::-1])
        elif name == "BINPERSID":
            self._storage(self.stack.pop())
        elif name == "REDUCE":
            self._call(self.stack.pop(), self.stack.pop())
        elif name == "BUILD":
            self._take(self.stack.pop().count)
            if self.stack[-1].kind != "ordered":
                raise _more("sets the insides of an object")
        else:
            raise _more(f"has the instruction {name}")

    def _take(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise RefusedTorchPickleError("takes more steps than any state dict and is not read; save that alone")

    def _to_mark(self) -> list[_Value]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _set(self, items: list[_Value]) -> None:
        # Only these are hashed in no time, whatever they hold.
        if any(key.kind != "key" for key in items[::2]):
            raise RefusedTorchPickleError("has keys that are not names or numbers; save its state dict alone")
        self.stack[-1].count += len(items) // 2

    def _storage(self, what: _Value) -> None:
        """("storage", type, key, place, count), and in old files a view: torch allocates old files' before it reads."""
        kinds = [item.kind for item in what.items[:5]]
        if kinds != ["key", "name", "key", "key", "key"] or not isinstance(what.items[4].value, int):
            raise RefusedTorchPickleError("has a storage that is not described as torch does; fetch it again")
        self.storages[what.items[2].value] = what.items[4].value
        claimed = max(sum(self.storages.values()), what.items[4].value)
        if claimed > self.size or what.items[4].value < 0:
            raise RefusedTorchPickleError(
                f"claims {claimed:,} numbers and has {self.size:,} bytes, so it is damaged or made to fill the memory; "
                "fetch it again"
            )
        self.stack.append(_Value("other"))

    def _call(self, given: _Value, function: _Value) -> None:
        if function.kind != "name" or function.value not in _CALLED or given.kind != "tuple":
            raise _more(f"wants {printable(function.value, 60)} called")
        self._take(given.count + sum(item.count for item in given.items))
        short = function.value.rpartition(".")[2]
        kinds = [item.kind for item in given.items]
        if (short == "OrderedDict" and kinds) or (short == "Counter" and kinds not in ([], ["dict"])):
            raise _more(f"wants a {short} of something other than it is saved with")
        self.stack.append(_Value({"OrderedDict": "ordered", "Counter": "dict"}.get(short, "other")))


def _allowed(name: str) -> str:
    """The name, if it may be said at all: one that is called, a type of storage or of numbers."""
    module, _, last = name.rpartition(".")
    storage = module in ("torch", "torch.cuda", "torch.storage") and last.endswith("Storage")
    numbers = module == "torch" and isinstance(getattr(torch, last, None), torch.dtype)
    if not (name in _CALLED or storage or numbers):
        raise _more(f"names {printable(name, 60)}")
    return name


def _more(what: str) -> RefusedTorchPickleError:
    return RefusedTorchPickleError(what, whole=True)


_MAKES = {
    "NONE": "other",
    "NEWTRUE": "key",
    "NEWFALSE": "key",
    "BININT": "key",
    "BININT1": "key",
    "BININT2": "key",
    "LONG1": "key",
    "BINFLOAT": "key",
    "BINUNICODE": "key",
    "SHORT_BINSTRING": "key",
    "EMPTY_TUPLE": "tuple",
    "EMPTY_LIST": "list",
    "EMPTY_DICT": "dict",
    "EMPTY_SET": "other",
}

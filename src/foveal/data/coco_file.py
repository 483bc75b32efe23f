"""The entries of a COCO JSON file, typed, however large the file and whatever is wrong with it.

The file is cut into its entries without decoding them, and each is decoded into a struct only when it is asked for, so
a million annotations never stand as Python objects at once. An entry that is not as the struct says is looked at again,
field by field, to say what is wrong with it; a file with NaN in it, which is no JSON, is read by the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

from foveal.errors import DataError

PARTS = ("images", "annotations", "categories")

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: Side | None = None
    height: Side | None = None


class Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    id: Id | None = None
    iscrowd: int | bool | None = None
    area: float | None = None


class Category(msgspec.Struct, gc=False):
    id: Id
    name: str


Entry = TypeVar("Entry", Image, Annotation, Category)

_EXPECTED = {
    "id": "a whole number",
    "image_id": "a whole number",
    "category_id": "a whole number",
    "file_name": "a text",
    "name": "a text",
    "bbox": "four numbers [x, y, width, height]",
    "iscrowd": "0 or 1",
    "area": "a number of pixels",
    "width": "a whole number above 0",
    "height": "a whole number above 0",
}


class Report(Protocol):
    """Takes one problem of the file."""

    def __call__(self, where: str, field: str, value: object, problem: str, fix: str, fatal: bool = True) -> None: ...


def read_parts(file: Path, report: Report, parts: Sequence[str] = PARTS) -> dict[str, list[Any]]:
    """The entries of each part, undecoded; a part that cannot be had is empty and reported.

    Entries are msgspec.Raw, or plain objects where the file is not strict JSON.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the file and its rights") from None
    document: Any
    try:
        document = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        document = _tolerant(content, report)
    if document is None:
        return {part: [] for part in parts}
    return {part: _entries(document, part, report) for part in parts}


def _tolerant(content: bytes, report: Report) -> dict[str, Any] | None:
    """The document as the standard library reads it, which knows NaN and tells line and column; None if malformed."""
    again = "restore the file or export it again"
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) - 1 or error.msg.startswith("Unterminated")
        kind = "the file is cut off" if cut else "the file is malformed JSON"
        report(f"line {error.lineno}, column {error.colno}", "", "", f"{kind} ({error.msg})", again)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        report(f"line {line}", "", content[error.start : error.end], "the file is not UTF-8", "save it as UTF-8")
    except (ValueError, RecursionError) as error:
        report("", "", "", f"the file cannot be read as JSON ({error})", again)
    else:
        if isinstance(document, dict):
            return document
        fix = "give a file with images, annotations and categories"
        report("", "", type(document).__name__, "the file holds no COCO labels but another kind of JSON", fix)
    return None


def _entries(document: dict[str, Any], part: str, report: Report) -> list[Any]:
    entries = document.get(part)
    if isinstance(entries, msgspec.Raw):
        try:
            return msgspec.json.decode(entries, type=list[msgspec.Raw])
        except ValueError:
            entries = None
    if isinstance(entries, list):
        return entries
    state = "is not a list" if part in document else "is missing"
    report("", part, "", f"the part {state}", f'add "{part}": [...]')
    return []


def decode_entries(entries: list[Any], kind: type[Entry], report: Report) -> Iterator[Entry]:
    """The struct of every entry that is as it should be; the others are reported with all their faults."""
    decode = msgspec.json.Decoder(kind).decode
    for position, entry in enumerate(entries):
        decoded: Entry | None
        try:
            decoded = decode(entry)
        except (TypeError, ValueError, RecursionError):
            decoded = _slowly(entry, kind, position, report)
        if decoded is not None:
            yield decoded


def _slowly(entry: Any, kind: type[Entry], position: int, report: Report) -> Entry | None:
    """The struct of an entry that the fast way refused; whole floats are taken for integers. None if it is faulty."""
    where = f"{kind.__name__.lower()} number {position + 1}"
    try:
        plain = json.loads(bytes(entry)) if isinstance(entry, msgspec.Raw) else entry
    except (ValueError, RecursionError) as error:
        report(where, "", "", f"the entry cannot be read ({error})", "write it again")
        return None
    if not isinstance(plain, dict):
        report(where, "", plain, "the entry is no object", "write it as {...}")
        return None
    if isinstance(plain.get("id"), int | str):
        where = f"{kind.__name__.lower()} {plain['id']}"
    values: dict[str, Any] = {}
    sound = True
    for field in msgspec.structs.fields(kind):
        value = plain.get(field.name)
        if value is None and not field.required:
            continue
        try:
            values[field.name] = msgspec.convert(_whole(value), field.type)
        except (ValueError, OverflowError):
            sound = sound and not field.required
            state, shown = "has the wrong type, length or range", json.dumps(value)
            if field.name not in plain:
                state, shown = "is missing", ""
            fix = f"write {_EXPECTED[field.name]}"
            report(where, field.name, shown, f"the field {state}", fix, fatal=field.required)
    return kind(**values) if sound else None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value

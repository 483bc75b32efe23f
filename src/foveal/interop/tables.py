"""pandas and Arrow: what was found in many pictures, a row a detection, in the columns of `foveal predict`'s CSV.

path, x1, y1, x2, y2, class, score; a picture without detections has one row with nothing but its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foveal.detections import Detections
from foveal.errors import DataError
from foveal.interop.assembling import assembled, check_kind, labels_of, package

SIDES = ("x1", "y1", "x2", "y2")


def to_pandas(pictures: Mapping[str, Detections]) -> Any:
    """A `pandas.DataFrame` of what was found in each picture."""
    return package("pandas").DataFrame(_columns(pictures))


def from_pandas(frame: Any, class_names: Sequence[str] = ()) -> dict[str, Detections]:
    """Detections by path, in the order in which paths occur, of a frame with the columns above; others may be there.

    class_names: default the names that occur, sorted. Without `score` all have 1. DataError where a column is missing
    or a number is not finite.
    """
    check_kind(frame, "columns", "pandas frame")
    _check_columns(frame.columns)
    nothing = package("pandas").isna
    return _pictures(
        [None if nothing(path) else str(path) for path in frame["path"]],
        np.stack([_numbers(frame[side], side) for side in SIDES], axis=1),
        [None if nothing(name) else _name(name) for name in frame["class"]],
        _numbers(frame["score"], "score") if "score" in frame.columns else None,
        class_names,
    )


def to_arrow(pictures: Mapping[str, Detections]) -> Any:
    """A `pyarrow.Table` of what was found in each picture, with nulls where a picture has nothing."""
    arrow = package("pyarrow")
    kinds = {name: arrow.string() if name in ("path", "class") else arrow.float32() for name in _columns({})}
    columns = {
        name: arrow.array(values, type=kinds[name], from_pandas=True) for name, values in _columns(pictures).items()
    }
    return arrow.table(columns)


def from_arrow(table: Any, class_names: Sequence[str] = ()) -> dict[str, Detections]:
    """Detections by path of an Arrow table; as `from_pandas`."""
    check_kind(table, "column_names", "Arrow table")
    _check_columns(table.column_names)
    return _pictures(
        table["path"].to_pylist(),
        np.stack([_numbers(table[side], side) for side in SIDES], axis=1),
        [None if name is None else _name(name) for name in table["class"].to_pylist()],
        _numbers(table["score"], "score") if "score" in table.column_names else None,
        class_names,
    )


def _columns(pictures: Mapping[str, Detections]) -> dict[str, Any]:
    paths: list[str] = []
    names: list[str | None] = []
    numbers = [np.zeros((0, 5), dtype=np.float32)]
    for path, found in pictures.items():
        paths += [path] * max(len(found), 1)
        names += found.names or [None]
        boxes_D4, scores_D = found.boxes.detach().cpu().numpy(), found.scores.detach().cpu().numpy()
        rows = np.concatenate([boxes_D4, scores_D[:, None]], axis=1)
        numbers.append(rows if len(found) else np.full((1, 5), np.nan, dtype=np.float32))
    columns = np.concatenate(numbers).T
    sides = {side: column.copy() for side, column in zip(SIDES, columns, strict=False)}
    return {"path": paths, **sides, "class": names, "score": columns[4].copy()}


def _pictures(
    paths: Sequence[str | None],
    boxes_R4: np.ndarray,
    names: Sequence[str | None],
    scores_R: np.ndarray | None,
    class_names: Sequence[str],
) -> dict[str, Detections]:
    """Detections by path of R rows; a row without a class and without a box is a picture without detections."""
    known = labels_of(sorted({name for name in names if name is not None}), class_names, "the table")[1]
    scores_R = np.ones(len(boxes_R4)) if scores_R is None else scores_R
    rows: dict[str, list[int]] = {}
    for row, (path, name) in enumerate(zip(paths, names, strict=True)):
        if path is None or (name is None and not np.isnan(boxes_R4[row]).all()):
            raise DataError(f"the table: row {row} has no {'path' if path is None else 'class'}; give it one")
        rows.setdefault(path, [])
        if name is not None:
            rows[path].append(row)
    found = {}
    for path, mine in rows.items():
        labels, _ = labels_of([name for name in (names[row] for row in mine) if name is not None], known, path)
        found[path] = assembled(boxes_R4[mine], scores_R[mine], labels, known, f"the table: {path}")
    return found


def _check_columns(there: Iterable[str]) -> None:
    names = list(there)
    if missing := [name for name in ("path", *SIDES, "class") if name not in names]:
        raise DataError(f"the table has no column {', '.join(missing)}; give path, x1, y1, x2, y2, class and score")
    if doubled := [name for name in ("path", *SIDES, "class", "score") if names.count(name) > 1]:
        raise DataError(f"the table has two columns {doubled[0]}; leave one out")


def _numbers(column: Any, name: str) -> np.ndarray:
    """A column of pandas or Arrow as float64; what is missing is NaN, and what is no number a DataError."""
    if getattr(getattr(column, "dtype", None), "kind", "f") in "Mmc":  # numpy would make numbers of them
        raise DataError(f"the table: {name} is a column of {column.dtype}; give numbers")
    try:
        if hasattr(column, "to_pylist"):
            return np.array(column.to_pylist(), dtype=np.float64)  # None becomes NaN
        numbers: np.ndarray = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return numbers
    except (TypeError, ValueError, OverflowError):
        values = (
            column.to_pylist()
            if hasattr(column, "to_pylist")
            else column.to_numpy(dtype=object, na_value=None).tolist()
        )
        row = next(row for row, value in enumerate(values) if not _is_number(value))
        raise DataError(f"the table: {name} of row {row} is {values[row]!r}; give numbers") from None


def _is_number(value: Any) -> bool:
    try:
        float(np.nan if value is None else value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _name(name: Any) -> str:
    """A class name; pandas reads names that are digits as numbers, and where a cell is empty as fractions."""
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)

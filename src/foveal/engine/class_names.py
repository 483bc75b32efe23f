"""The classes of a run and those of a data set, matched by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from foveal.data.table import Table
from foveal.errors import UsageError


@dataclass(frozen=True)
class SharedClasses:
    """Which class of the one is which of the other.

    data_label_of: for each class of the run the data's label, -1 where the data has no such class; run_label_of: for
    each class of the data the run's. strange: what only the data has; unused: what only the run has.
    """

    data_label_of: tuple[int, ...]
    run_label_of: tuple[int, ...]
    strange: tuple[str, ...]
    unused: tuple[str, ...]


def match_classes(run_names: Sequence[str], data_names: Sequence[str]) -> SharedClasses:
    """Matches by name; UsageError where the data has classes and the run knows none of them."""
    in_run = {name: label for label, name in enumerate(run_names)}
    in_data = {name: label for label, name in enumerate(data_names)}
    if in_data and not in_data.keys() & in_run.keys():
        raise UsageError(
            f"the run knows {', '.join(run_names)}; the data has {', '.join(data_names)}: no class in common; "
            "give the data that the run was trained for, or rename its classes"
        )
    return SharedClasses(
        data_label_of=tuple(in_data.get(name, -1) for name in run_names),
        run_label_of=tuple(in_run.get(name, -1) for name in data_names),
        strange=tuple(name for name in data_names if name not in in_run),
        unused=tuple(name for name in run_names if name not in in_data),
    )


def in_order_of(table: Table, names: Sequence[str]) -> Table:
    """The table with its classes in the order of `names`; as it is where they are not the same classes."""
    if table.class_names == tuple(names) or sorted(table.class_names) != sorted(names):
        return table
    shared = match_classes(names, table.class_names)
    labels = torch.tensor(shared.run_label_of, dtype=table.labels.dtype)[table.labels.long()]
    return replace(
        table,
        class_names=tuple(names),
        category_ids=tuple(table.category_ids[label] for label in shared.data_label_of),
        labels=labels.share_memory_(),
    )

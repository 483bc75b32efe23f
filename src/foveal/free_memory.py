"""How much memory a process may still take: of the machine, of the control groups that it is in, of a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells which control groups a process is in, and their limits."""


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that this process may still take: on a GPU what is free there, else its share of the machine's.

    Of a machine it is what the system has free, or what the limit of a control group leaves where that is less; the
    processes that torchrun started on it share it alike.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = min([int(psutil.virtual_memory().available), *_left_in_groups()])
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _left_in_groups() -> Iterator[int]:
    """What the limits of this process's control groups, and of those around them, leave; of both versions of Linux's.

    Pages of files that the system drops when somebody wants memory do not count as taken.
    """
    try:
        groups = OWN_GROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in groups:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            root, limit, used, of_files = GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            root, limit, used, of_files = (
                GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
            )  # fmt: skip
        else:
            continue
        # In a container the path may be the machine's and not be there; its own group is then the root.
        own = root / path.lstrip("/")
        for group in (own, *(parent for parent in own.parents if parent.is_relative_to(root))):
            try:
                taken = int((group / used).read_text()) - _number(group / "memory.stat", of_files)
                yield int((group / limit).read_text()) - taken
            except (OSError, ValueError):  # no such group, or one without a limit
                continue


def _number(file: Path, name: str) -> int:
    """The number behind a name in a file of such lines, 0 where there is none."""
    numbers = dict(line.split(" ", 1) for line in file.read_text().splitlines())
    return int(numbers.get(name, 0))

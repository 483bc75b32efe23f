"""What every benchmark does the same way: timing, and a CSV that says on what machine and commit it was made."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foveal.compiled import KERNELS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "numpy", "opencv-python-headless", "pillow")


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: the median, and the shortest and longest as their spread."""

    median_s: float
    min_s: float
    max_s: float
    runs: int

    def per(self, count: int) -> dict[str, float | int]:
        """Columns of a row: milliseconds for each of `count` things that a run handles."""
        each = {name: round(getattr(self, f"{name}_s") / count * 1000, 4) for name in ("median", "min", "max")}
        return {f"{name}_ms": value for name, value in each.items()} | {"runs": self.runs}


def measure(work: Callable[[], Any], runs: int, warm_up: int = 1) -> Timing:
    """Times `runs` calls of `work`, after `warm_up` that do not count."""
    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return Timing(statistics.median(seconds), min(seconds), max(seconds), runs)


def write_rows(name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Prints the rows and writes them to results/NAME.csv, each with machine, versions, commit and date.

    A row's own column of such a name counts.
    """
    return _write(name, rows, [circumstances() | row for row in rows])


def replace_rows(name: str, rows: Sequence[dict[str, Any]], key: Sequence[str], quietly: bool = False) -> Path:
    """As `write_rows`, but lines that are there stay as they are, unless a row has the same `key` columns.

    quietly: prints nothing.
    """
    path, now = RESULTS / f"{name}.csv", circumstances()
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in [*(read_rows(path) if path.exists() else []), *(now | row for row in rows)]:
        lines[tuple(str(line[column]) for column in key)] = line
    return _write(name, [] if quietly else rows, list(lines.values()))


def read_rows(path: Path) -> list[dict[str, str]]:
    """A results file's lines by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def circumstances() -> dict[str, str]:
    """The columns that say where and of what a number was measured."""
    return {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _write(name: str, shown: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]]) -> Path:
    """Prints some rows and writes all lines to results/NAME.csv, beside it first: never half a file."""
    now = list(circumstances())
    filled = dict.fromkeys(column for line in lines for column, value in line.items() if value not in (None, ""))
    columns = [*(column for column in filled if column not in now), *now]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.csv"
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    os.replace(beside, path)
    if not shown:
        return path
    print(f"{name} ({'; '.join(circumstances().values())})")
    shown_columns = list(dict.fromkeys(column for row in shown for column in row))
    widths = {c: max(len(c), *(len(str(row.get(c, ""))) for row in shown)) for c in shown_columns}
    for line in ({column: column for column in shown_columns}, *shown):
        print("  ".join(str(line.get(column, "")).ljust(widths[column]) for column in shown_columns).rstrip())
    return path


def machine() -> str:
    """Processor, cores that may be used, and the graphics card if there is one."""
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    card = f" + {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model} ({cores} core{'' if cores == 1 else 's'}){card}"


def versions() -> str:
    packages = [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    return " ".join([*packages, kernels()])


def kernels() -> str:
    """Which of Foveal's fast paths run."""
    return "with compiled kernels" if KERNELS else "without compiled kernels"


def commit() -> str:
    """The short hash; with a + where files of the package, the benchmarks or the studies differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src", "csrc", "setup.py", "benchmarks/*.py", "studies/*.py")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

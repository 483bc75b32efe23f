"""The table of speed and memory in both READMEs, written from results/*.csv: `python -m benchmarks.readme`

So that the table and the files cannot differ; a test holds them together. A row whose file or line is not there is left
out. --check writes nothing and fails where a README differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import RESULTS, ROOT, read_rows
from foveal.engine.checkpoint import write_text

BEGIN, END = "<!-- benchmarks: written by python -m benchmarks.readme -->", "<!-- end of benchmarks -->"
HEADS = {
    "README.md": (
        "what", "against", "theirs, ms", "Foveal, ms", "times faster", "theirs, MB", "Foveal, MB", "command", "commit",
        "machine",
    ),
    "README.ko.md": (
        "무엇", "비교 대상", "상대, ms", "Foveal, ms", "몇 배 빠른가", "상대, MB", "Foveal, MB", "명령", "커밋",
        "컴퓨터",
    ),
}  # fmt: skip
KOREAN = {
    "class loss and gradient, 67,995 x 80": "분류 손실과 기울기, 67,995 x 80",
    "class loss and gradient, 199,800 x 80": "분류 손실과 기울기, 199,800 x 80",
    "matching, 20 objects": "매칭, 객체 20개",
    "matching, 100 objects": "매칭, 객체 100개",
    "matching, 500 objects": "매칭, 객체 500개",
    "decoding, 608 px, typical": "디코딩, 608 px, 보통",
    "decoding, 800 x 1088 px, worst": "디코딩, 800 x 1088 px, 최악",
    "NMS, 1,000 boxes in crowds": "NMS, 몰려 있는 상자 1,000개",
    "NMS, 20,000 boxes": "NMS, 상자 20,000개",
    "one picture of 608 px, ResNet-50": "608 px 사진 한 장, ResNet-50",
    "the same, each side as its users run it": "같은 것, 양쪽 모두 사용자가 돌리는 그대로",
    "training step, 2 x 608 px, 20 objects each": "학습 한 단계, 2 x 608 px, 객체 20개씩",
    "training step, 2 x 608 px, 300 objects each": "학습 한 단계, 2 x 608 px, 객체 300개씩",
    "COCO evaluation, 5,000 pictures": "COCO 평가, 사진 5,000장",
    "plain path": "단순한 경로",
}


@dataclass(frozen=True)
class Place:
    """Where a side's numbers stand: lines that have all of `where`, and the columns of time and memory.

    The time may be in another line than the memory: `memory_where`. in_ms: by what the time is to be multiplied.
    """

    where: Mapping[str, str]
    time: str
    memory: str
    memory_where: Mapping[str, str] | None = None
    in_ms: float = 1.0


@dataclass(frozen=True)
class Row:
    """A line of the table: `file` is the name of a CSV in results, `command` what wrote it."""

    what: str
    against: str
    file: str
    command: str
    theirs: Place
    ours: Place


def _paths(what: str, file: str, **where: str) -> Row:
    """The plain path against the fast one."""
    plain, fast = (Place({**where, "path": path}, "median_ms", "peak_MB") for path in ("plain", "fast"))
    return Row(what, "plain path", file, f"python -m benchmarks.{file}", plain, fast)


def _peers(what: str, work: str, case: str, memory: str = "reused") -> Row:
    """torchvision against Foveal: peaks are those with fresh memory."""
    lines = {"work": work, "case": case, "memory": memory}
    theirs, ours = (
        Place(lines, f"{side}_median_ms", f"{side}_MB", {**lines, "memory": "fresh"}) for side in ("peer", "ours")
    )
    return Row(what, "torchvision", "peers", f"python -m benchmarks.peers --only {work}", theirs, ours)


ROWS = (
    _paths("class loss and gradient, 67,995 x 80", "loss", anchors="67995", classes="80", gamma="2.0",
           layout="channels_last", reused_memory="yes"),
    _paths("matching, 100 objects", "matching", policy="authors", objects="100"),
    _paths("decoding, 800 x 1088 px, worst", "decoding", height="800", width="1088", logits="worst",
           layout="channels last"),
    _peers("class loss and gradient, 67,995 x 80", "loss", "67,995 x 80"),
    _peers("class loss and gradient, 199,800 x 80", "loss", "199,800 x 80"),
    _peers("matching, 20 objects", "matching", "67,995 x 20 objects"),
    _peers("matching, 500 objects", "matching", "67,995 x 500 objects"),
    _peers("decoding, 608 px, typical", "decoding", "608 px, typical"),
    _peers("decoding, 800 x 1088 px, worst", "decoding", "800 x 1088 px, worst"),
    _peers("NMS, 1,000 boxes in crowds", "nms", "1,000 boxes, clustered"),
    _peers("NMS, 20,000 boxes", "nms", "20,000 boxes, random"),
    _peers("one picture of 608 px, ResNet-50", "image", "one picture of 608 px"),
    _peers("the same, each side as its users run it", "image", "one picture of 608 px", memory="as run"),
    _peers("training step, 2 x 608 px, 20 objects each", "training_608", "2 x 608 px, 20 objects each"),
    _peers("training step, 2 x 608 px, 300 objects each", "training_608", "2 x 608 px, 300 objects each"),
    Row("COCO evaluation, 5,000 pictures", "pycocotools", "evaluation", "python -m benchmarks.evaluation",
        Place({"evaluator": "pycocotools", "pictures": "5000"}, "median_s", "peak_MB", in_ms=1000),
        Place({"evaluator": "foveal", "pictures": "5000"}, "median_s", "peak_MB", in_ms=1000)),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a README differs")
    check = parser.parse_args().check
    differing = [name for name in HEADS if with_table(name) != (ROOT / name).read_text(encoding="utf-8")]
    if check:
        print(f"differs from benchmarks/results: {', '.join(differing)}" if differing else "as benchmarks/results say")
        return 1 if differing else 0
    for name in differing:
        write_text(ROOT / name, with_table(name))
    return 0


def with_table(readme: str, results: Path = RESULTS) -> str:
    """A README's whole text with the table that the results give."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table(readme, results)}{END}{rest.split(END, 1)[1]}"


def table(readme: str, results: Path = RESULTS) -> str:
    """Markdown of the rows that were measured, in the README's language."""
    translate: Mapping[str, str] = KOREAN if readme == "README.ko.md" else {}
    files = {row.file: results / f"{row.file}.csv" for row in ROWS}
    lines = {name: read_rows(path) for name, path in files.items() if path.exists()}
    found = [cells(row, lines.get(row.file, []), translate) for row in ROWS]
    shown = [HEADS[readme], ["---"] * 2 + ["---:"] * 5 + ["---"] * 3, *(one for one in found if one)]
    return "".join(f"| {' | '.join(line)} |\n" for line in shown)


def cells(row: Row, lines: list[dict[str, str]], translate: Mapping[str, str]) -> list[str] | None:
    """A row's cells; None where a side was not measured."""
    theirs, ours = (_line(lines, place.where, place.time) for place in (row.theirs, row.ours))
    if theirs is None or ours is None:
        return None
    times = [float(line[place.time]) * place.in_ms for line, place in ((theirs, row.theirs), (ours, row.ours))]
    memory = [_line(lines, place.memory_where or place.where, place.memory) for place in (row.theirs, row.ours)]
    return [
        translate.get(row.what, row.what),
        translate.get(row.against, row.against),
        *map(rounded, times),
        rounded(times[0] / times[1], digits=2),
        *(rounded(float(m[p.memory])) if m else "-" for m, p in zip(memory, (row.theirs, row.ours), strict=True)),
        f"`{row.command}`",
        ours["commit"],
        ours["machine"].replace(" (", ", ").replace(")", ""),
    ]


def rounded(value: float, digits: int = 3) -> str:
    """To some significant digits, never fewer than those before the point: 1,234 56.8 .457 is written as 0.457."""
    if value == 0:
        return "0"
    before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if before == 0:
        return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.{digits - 1}f}"
    return f"{value:,.{max(0, digits - before)}f}"


def _line(lines: list[dict[str, str]], where: Mapping[str, str], column: str) -> dict[str, str] | None:
    """The first line that has all of `where`, and a number in the column."""
    matching = (line for line in lines if all(line.get(key) == value for key, value in where.items()))
    return next((line for line in matching if line.get(column)), None)


if __name__ == "__main__":
    sys.exit(main())

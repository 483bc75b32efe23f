"""The list of works: what is compared, at which sizes, and with which handling of freed memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FRESH, REUSED, AS_RUN = "fresh", "reused", "as run"
"""With freed memory: as processes come; both sides keep it; or each side is as its users run it: Foveal keeps it, as
its commands do, and the peer has neither that nor another memory layout than its own."""


@dataclass(frozen=True)
class Work:
    """group: the word of `--only`. job: a name in both sides' `JOBS`. memory: a row for each way with freed memory."""

    group: str
    job: str
    case: str
    settings: dict[str, Any] = field(default_factory=dict)
    memory: tuple[str, ...] = (FRESH, REUSED)


def _works() -> Iterator[Work]:
    for height, width, anchors in ((600, 600, "67,995"), (1024, 1040, "199,800")):
        yield Work("loss", "loss", f"{anchors} x 80", {"height": height, "width": width, "classes": 80})
    for objects in (20, 100, 500):
        yield Work(
            "matching", "matching", f"67,995 x {objects} objects", {"height": 600, "width": 600, "objects": objects}
        )
    yield Work("decoding", "decoding", "608 px, typical", {"height": 608, "width": 608, "kind": "typical"})
    yield Work("decoding", "decoding", "800 x 1088 px, worst", {"height": 800, "width": 1088, "kind": "worst"})
    for count in (1000, 5000, 20000):
        for kind in ("random", "clustered"):
            yield Work("nms", "nms", f"{count:,} boxes, {kind}", {"boxes": count, "kind": kind}, (REUSED,))
    yield Work("anchors", "anchors", "608 px", {"side": 608}, (REUSED,))
    yield Work("image", "image", "one picture of 608 px", {"side": 608}, (FRESH, REUSED, AS_RUN))
    for side in (320, 608):
        for objects in (20, 300):
            yield Work(
                f"training_{side}",
                "training",
                f"2 x {side} px, {objects} objects each",
                {"side": side, "objects": objects, "batch": 2},
            )


WORKS = tuple(_works())
GROUPS = tuple(dict.fromkeys(work.group for work in WORKS))
QUICK = tuple(group for group in GROUPS if group != "training_608")
"""What is run by default; the rest takes minutes more."""

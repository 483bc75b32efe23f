"""Do both sides give the same answer? Asked before anything is timed: a fast wrong answer is worth nothing.

Each rule takes both sides' answers and returns a sentence on how close they are; DisagreementError where they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Answer = dict[str, Any]


class DisagreementError(Exception):
    """Both sides do not do the same work."""


def losses_agree(ours: Answer, theirs: Answer) -> str:
    """The value to 1e-4 of it, each gradient element to 1e-3 of it."""
    value = _relative(ours["value"], theirs["value"])
    return _within(value, 1e-4, "value") + ", " + _samples_agree(ours["gradient"], theirs["gradient"], "gradient")


def matches_agree(ours: Answer, theirs: Answer) -> str:
    """The same anchors positive for the same objects. Pairs that one side alone has may be .2 % of all.

    IoU is rounded in different orders. Other ignored anchors are told, not refused.
    """
    ours_of, theirs_of = (set(zip(a["positive"], a["object"], strict=True)) for a in (ours, theirs))
    ignored = "the same ignored" if ours["ignored"] == theirs["ignored"] else "other ignored"
    return _few(len(ours_of ^ theirs_of), len(theirs_of), 0.002, "positive anchors") + ", " + ignored


def detections_agree(ours: Answer, theirs: Answer) -> str:
    """As many detections; each has its own on the other side, of its class, within .1 pixel and .001 of score.

    One in 100 may have none, where candidates tie at the last place.
    """
    if len(ours["scores"]) != len(theirs["scores"]):
        raise DisagreementError(f"{len(ours['scores'])} detections against {len(theirs['scores'])}")
    left: dict[int, list[tuple[float, ...]]] = {}
    for label, score, box in zip(ours["labels"], ours["scores"], ours["boxes"], strict=True):
        left.setdefault(label, []).append((score * 100, *box))
    alone = 0
    for label, score, box in zip(theirs["labels"], theirs["scores"], theirs["boxes"], strict=True):
        other = next((one for one in left.get(label, []) if _apart(one, (score * 100, *box)) < 0.1), None)
        alone += other is None
        if other is not None:
            left[label].remove(other)
    return _few(alone, len(theirs["scores"]), 0.01, "detections")


def kept_agree(ours: Answer, theirs: Answer) -> str:
    """The same boxes stay; those of one side alone may be .2 %: telling classes apart rounds in two ways."""
    return _few(len(set(ours["kept"]) ^ set(theirs["kept"])), len(theirs["kept"]), 0.002, "kept boxes")


def anchors_agree(ours: Answer, theirs: Answer) -> str:
    return _samples_agree(ours, theirs, "anchors")


def steps_agree(ours: Answer, theirs: Answer) -> str:
    """Both losses of the first step to 1e-3 of them."""
    return ", ".join(_within(_relative(ours[name], theirs[name]), 1e-3, f"{name} loss") for name in theirs)


RULES: dict[str, Callable[[Answer, Answer], str]] = {
    "loss": losses_agree,
    "matching": matches_agree,
    "decoding": detections_agree,
    "nms": kept_agree,
    "anchors": anchors_agree,
    "image": detections_agree,
    "training": steps_agree,
}


def _samples_agree(ours: Answer, theirs: Answer, what: str) -> str:
    _within(_relative(ours["magnitude"], theirs["magnitude"]), 1e-4, f"{what}'s magnitude")
    _within(abs(ours["sum"] - theirs["sum"]) / max(theirs["magnitude"], 1e-30), 1e-4, f"{what}'s sum")
    pairs = zip(ours["sample"], theirs["sample"], strict=True)
    # Elements that are next to nothing may be nothing on one side.
    typical = max(map(abs, theirs["sample"])) * 1e-6
    return _within(max(abs(a - b) / max(abs(b), typical, 1e-30) for a, b in pairs), 1e-3, what)


def _relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-30)


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _within(difference: float, limit: float, what: str) -> str:
    if not difference <= limit:  # NaN is no agreement
        raise DisagreementError(f"{what} differs by {difference:.1g} of it, more than {limit:g}")
    return f"{what} equal" if difference == 0 else f"{what} to {difference:.0e}"


def _few(different: int, all_of_them: int, share: float, what: str) -> str:
    if different > max(2, share * all_of_them):
        raise DisagreementError(f"{different} {what} differ, beside {all_of_them}")
    return f"all {all_of_them} {what}" if different == 0 else f"{all_of_them} {what} but {different}"

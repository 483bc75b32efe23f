"""Detections as a detector gives them, for round trips: inside a picture, best first, of classes with any names."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from foveal.detections import Detections

SIZE = (300, 400)
NAMES = ("cat", "dog", "0")
TWO = Detections(
    torch.tensor([[100.0, 30, 300, 90], [0, 0, 40, 150]]), torch.tensor([0.75, 0.5]), torch.tensor([1, 0]), NAMES
)
"""Worked by hand in a picture of 300 x 400: [.25, .1, .5, .2] and [0, 0, .1, .5] as shares."""

_share = st.floats(0, 1, width=32)
_names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=4)


@st.composite
def detections(draw: st.DrawFn, names: tuple[str, ...] | None = None) -> Detections:
    """Of a picture of SIZE; of classes called `names`, or anything."""
    names = names or tuple(draw(_names.filter(lambda found: len(set(found)) == len(found))))
    boxes, count = [], draw(st.integers(0, 5))
    for _ in range(count):
        x1, x2 = sorted((draw(_share) * SIZE[1], draw(_share) * SIZE[1]))
        y1, y2 = sorted((draw(_share) * SIZE[0], draw(_share) * SIZE[0]))
        boxes.append([x1, y1, x2, y2])
    scores = sorted((draw(_share) for _ in range(count)), reverse=True)
    labels = [draw(st.integers(0, len(names) - 1)) for _ in range(count)]
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        names,
    )


def assert_same(found: Detections, expected: Detections) -> None:
    """Bit for bit, names included."""
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=0)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.class_names == expected.class_names
    assert found.boxes.dtype == found.scores.dtype == torch.float32

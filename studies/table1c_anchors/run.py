"""Table 1c: how many anchors a cell has. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study


def anchors(scales: int, ratios: int) -> Row:
    """So many steps within an octave, and one square anchor or three shapes."""
    return Row(
        f"scales {scales}, ratios {ratios}",
        {
            "anchors.scales": tuple(2 ** (step / scales) for step in range(scales)),
            "anchors.ratios": (1.0,) if ratios == 1 else (0.5, 1.0, 2.0),
        },
    )


STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Table 1c: anchors of a cell",
    rows=tuple(anchors(s, r) for s, r in ((1, 1), (2, 1), (3, 1), (1, 3), (2, 3), (3, 3), (4, 3))),
    baseline="scales 1, ratios 1",
)

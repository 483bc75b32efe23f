"""Section 5.1: the hinge loss on p_t, between CE and FL. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study
from studies.table3_fl_star.run import STUDY as TABLE_3

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Section 5.1: the hinge loss",
    rows=(
        *TABLE_3.chosen(("CE", "FL")),
        Row("hinge", {"loss.name": "hinge", "loss.margin": 0.5}),
    ),
    baseline="FL",
    pairs=(("hinge", "CE"),),
)

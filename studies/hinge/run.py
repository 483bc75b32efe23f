"""Section 5.1: the hinge loss on p_t, between CE and FL. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Section 5.1: the hinge loss",
    rows=(
        Row("CE", {"loss.name": "balanced_cross_entropy", "loss.alpha": 0.75}),
        Row("FL", {"loss.name": "focal", "loss.gamma": 2.0, "loss.alpha": 0.25}),
        Row("hinge", {"loss.name": "hinge", "loss.margin": 0.5}),
    ),
    baseline="FL",
    pairs=(("hinge", "CE"),),
)

"""Table 3: FL and FL* against cross entropy. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study


def star(gamma: float, beta: float) -> Row:
    changes = {"loss.name": "focal_star", "loss.gamma": gamma, "loss.beta": beta, "loss.alpha": 0.25}
    return Row(f"FL* gamma {gamma:g}, beta {beta:g}", changes)


STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Table 3: FL and FL*",
    rows=(
        Row("CE", {"loss.name": "balanced_cross_entropy", "loss.alpha": 0.75}),
        Row("FL", {"loss.name": "focal", "loss.gamma": 2.0, "loss.alpha": 0.25}),
        star(2.0, 1.0),
        star(4.0, 0.0),
    ),
    baseline="CE",
    pairs=(("FL* gamma 2, beta 1", "FL"),),
)

"""Table 1b: the focal loss's gamma, each with its best alpha. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study

# The paper's best alpha for each gamma.
BEST = {0.1: 0.75, 0.2: 0.75, 0.5: 0.5, 1.0: 0.25, 2.0: 0.25, 5.0: 0.25}

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Table 1b: gamma of the focal loss",
    rows=(
        # Gamma 0 is balanced cross entropy exactly: the same run as in tables 1a and 3.
        Row("gamma 0", {"loss.name": "balanced_cross_entropy", "loss.alpha": 0.75}),
        *(Row(f"gamma {g:g}", {"loss.name": "focal", "loss.gamma": g, "loss.alpha": a}) for g, a in BEST.items()),
    ),
    baseline="gamma 0",
    pairs=(("gamma 5", "gamma 2"),),
)

"""Table 1a: cross entropy balanced by alpha. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.study import Row, Study

ALPHAS = (0.10, 0.25, 0.50, 0.75, 0.90, 0.99, 0.999)

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Table 1a: balanced cross entropy",
    rows=tuple(Row(f"alpha {a:g}", {"loss.name": "balanced_cross_entropy", "loss.alpha": a}) for a in ALPHAS),
    baseline="alpha 0.5",
    pairs=(("alpha 0.99", "alpha 0.75"),),
)

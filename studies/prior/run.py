"""The prior of section 4.1: what every anchor starts with. Command, numbers and what was measured: README.md."""

from pathlib import Path

from studies.prior.first_step import first_losses
from studies.study import Row, Study

LOSSES = {
    # The same as table 1a's alpha 0.5 where pi is .01.
    "CE": {"loss.name": "balanced_cross_entropy", "loss.alpha": 0.5},
    "FL": {"loss.name": "focal", "loss.gamma": 2.0, "loss.alpha": 0.25},
}
PRIORS = (0.5, 0.1, 0.01, 0.001)

STUDY = Study(
    folder=Path(__file__).resolve().parent,
    title="Section 4.1: the prior pi",
    rows=tuple(
        Row(f"{name}, pi {prior:g}", {**loss, "model.prior": prior})
        for name, loss in LOSSES.items()
        for prior in PRIORS
    ),
    baseline="FL, pi 0.01",
    pairs=(("CE, pi 0.01", "CE, pi 0.5"),),
    extra=first_losses,
)

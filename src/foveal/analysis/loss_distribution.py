"""What the loss sees: a trained run's class loss over all anchors of a data set, at several gammas (paper, figure 4).

One pass of the network over a split; the losses are then computed from the histogram of its logits. Training's own
rules say which anchors are positive, background or ignored; pictures are as in evaluation, nothing is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from foveal.analysis.finite import check_finite
from foveal.analysis.logit_counts import SIDES, LogitCounts, anchor_classes
from foveal.analysis.loss_shares import FRACTIONS, Curve, Elements, SideShares
from foveal.analysis.loss_text import as_text
from foveal.config import LossConfig
from foveal.data.detect import read_data
from foveal.data.loader import eval_batches
from foveal.data.table import Table
from foveal.engine.checkpoint import Which
from foveal.engine.class_names import match_classes
from foveal.engine.predict import Detector, load
from foveal.engine.usable import left_out
from foveal.errors import UsageError
from foveal.losses.classification import ClassificationLoss, Focal, Weight, classification_loss
from foveal.matching import match

GAMMAS = (0.0, 0.5, 1.0, 2.0)
OWN = "own"
"""The name of the loss that the run was trained with, beside the gammas'."""

Part = dict[str, SideShares]
"""The shares of `positives` and of `background`."""


@dataclass(frozen=True)
class LossDistribution:
    """Who holds the loss of a run, under each of several losses; `print` it, or take `as_dict()`.

    losses: what each loss is, by name: "gamma 0", ..., "own". overall, per_level, per_class: shares by the loss's name;
    `of_all` in each of them is of the whole split. curves: by the loss's name, then by side.
    notes: sentences that a reader must know.
    """

    run: str
    split: str
    pictures: int
    losses: dict[str, str]
    overall: dict[str, Part]
    per_level: dict[int, dict[str, Part]]
    per_class: dict[str, dict[str, Part]]
    curves: dict[str, dict[str, Curve]]
    notes: tuple[str, ...] = ()

    def elements(self, side: str) -> int:
        """How many (anchor, class) pairs were counted as `positives` or as `background`."""
        return next(iter(self.overall.values()))[side].elements

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: run, split, pictures, losses, overall, per_level, per_class, notes; no NaN, no curves."""
        return {
            "run": self.run,
            "split": self.split,
            "pictures": self.pictures,
            "losses": self.losses,
            "overall": _as_dict(self.overall),
            "per_level": {str(level): _as_dict(parts) for level, parts in self.per_level.items()},
            "per_class": {name: _as_dict(parts) for name, parts in self.per_class.items()},
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The tables, for people, at most 80 columns wide; shares in percent."""
        return as_text(self)

    def __str__(self) -> str:
        return self.table()

    def csv(self) -> str:
        """The curves, a row a point: side,loss,fraction,cumulative_loss,cumulative_gradient; the easiest part first.

        A side without any loss has no rows, one without any gradient has empty cells.
        """
        rows = ["side,loss,fraction,cumulative_loss,cumulative_gradient"]
        for name, curves in self.curves.items():
            for side, curve in curves.items():
                if curve.loss is None:
                    continue
                slopes = [""] * len(FRACTIONS) if curve.gradient is None else [f"{v:.9g}" for v in curve.gradient]
                points = zip(FRACTIONS.tolist(), curve.loss.tolist(), slopes, strict=True)
                rows += [f"{side},{name},{fraction:.10g},{loss:.9g},{slope}" for fraction, loss, slope in points]
        return "\n".join(rows) + "\n"


def loss_distribution(
    run: str | PathLike[str],
    data: str | PathLike[str] | Table,
    split: str = "val",
    *,
    gammas: Sequence[float] = GAMMAS,
    which: Which = "best",
    device: str = "auto",
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> LossDistribution:
    """Measures who holds the class loss of a run on one split of a data set, under the focal loss at each gamma.

    The run's own loss is measured too. alpha, one or one for each class, is the run's for every gamma; a single one
    moves loss between positives and background, not within either. Every anchor counts that is not ignored, whatever
    mining the run trained with. Memory does not grow with the number of pictures. progress(done, total) is called after
    each batch of pictures.
    """
    focal = {f"gamma {gamma:g}": gamma for gamma in gammas}
    for gamma in focal.values():
        if not (math.isfinite(gamma) and gamma >= 0):
            raise UsageError(f"gamma {gamma:g}: give 0 (cross entropy) or more, such as 2")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: give 1 or more")
    table = data if isinstance(data, Table) else read_data(Path(data), split)
    if not len(table):
        raise UsageError(f"{table.root}: its split {table.split or split!r} has no pictures; name another with --split")
    detector = load(run, device, which)
    shared = match_classes(detector.class_names, table.class_names)
    notes = left_out(table)
    if shared.strange:
        notes = (f"the run does not know {', '.join(shared.strange)}: anchors of such objects are left out", *notes)
    config = detector.config.loss
    alpha: Weight = config.class_alpha or config.alpha
    losses: dict[str, ClassificationLoss] = {name: Focal(alpha, gamma) for name, gamma in focal.items()}
    losses[OWN] = classification_loss(config)
    return distribution_of(
        count_logits(detector, table, shared.run_label_of, batch_size, progress),
        losses,
        levels=detector.anchors.levels,
        class_names=detector.class_names,
        run=Path(run).resolve().name,
        split=table.split or split,
        pictures=len(table),
        notes=(*notes, *_caveats(config)),
    )


def count_logits(
    detector: Detector,
    table: Table,
    class_of: Sequence[int],
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> LogitCounts:
    """The class logits of every picture of a table, counted.

    class_of: the run's class of each class of the table, -1 for one that it does not know: anchors of such an object
    are ignored. FovealError where a logit is not finite.
    """
    config, device = detector.config, detector.device
    counts = LogitCounts(len(detector.anchors.levels), len(detector.class_names), device)
    known = torch.tensor([*class_of, -1], device=device)
    done = 0
    for batch in eval_batches(table, config, batch_size):
        batch = batch.to(device)
        with torch.no_grad():
            logits = detector.model(batch.images).logits
        check_finite(logits, [table.path(row) for row in batch.rows.tolist()])
        counts.add(logits, anchor_classes(match(detector.anchors, batch, config.assignment), known[batch.labels]))
        done += len(batch)
        if progress:
            progress(done, len(table))
    return counts


def distribution_of(
    counts: LogitCounts,
    losses: dict[str, ClassificationLoss],
    *,
    levels: Sequence[int],
    class_names: Sequence[str],
    run: str = "",
    split: str = "",
    pictures: int = 0,
    notes: tuple[str, ...] = (),
) -> LossDistribution:
    """The distribution under each of several losses, from the logits that were counted."""
    overall: dict[str, Part] = {}
    per_level: dict[int, dict[str, Part]] = {level: {} for level in levels}
    per_class: dict[str, dict[str, Part]] = {name: {} for name in class_names}
    curves: dict[str, dict[str, Curve]] = {}
    for name, loss in losses.items():
        sides = {side: Elements.of(counts, side, loss) for side in reversed(SIDES)}
        sums = sides["positives"].sums + sides["background"].sums
        overall[name] = {side: elements.shares(sums) for side, elements in sides.items()}
        curves[name] = {side: elements.curve() for side, elements in sides.items()}
        for place, level in enumerate(levels):
            per_level[level][name] = {side: elements[place].shares(sums) for side, elements in sides.items()}
        for label, class_name in enumerate(class_names):
            per_class[class_name][name] = {side: all_[..., label].shares(sums) for side, all_ in sides.items()}
    told = {name: str(loss) for name, loss in losses.items()}
    return LossDistribution(run, split, pictures, told, overall, per_level, per_class, curves, notes)


def _caveats(config: LossConfig) -> list[str]:
    """Where the run's own loss is simplified."""
    notes = []
    if config.mining != "all":
        notes.append(f"the run trained on the anchors that {config.mining} keeps; here every anchor counts")
    if config.name in ("quality_focal", "varifocal"):
        notes.append(f"{config.name} trains towards the IoU of the predicted box; here every positive's target is 1")
    if config.label_smoothing:
        notes.append("the run trained with label smoothing; here targets are 1 and 0")
    return notes


def _as_dict(parts: dict[str, Part]) -> dict[str, Any]:
    return {name: {side: shares.as_dict() for side, shares in part.items()} for name, part in parts.items()}

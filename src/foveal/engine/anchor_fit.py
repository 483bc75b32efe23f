"""Anchors that fit a data set: the search behind `--anchors.auto`, and advice that can be pasted into a command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import AnchorConfig, Config
from foveal.data.images import padded_shape
from foveal.data.table import Table
from foveal.engine.coverage import LabelledBoxes, coverage, in_words, percent, warning

SEARCHED = 2000
"""Objects that a search looks at, shared out among the classes."""
JUDGED = 20_000
"""Objects that say what advice is worth."""
MIN_PER_CLASS = 50
"""Objects of each class among them, where it has so many."""
ENLARGEMENTS = (1.25, 1.5, 2.0, 2.5, 3.0)
"""Factors on the training resolution that are considered."""
GROWTHS = (4, 3, 2)
"""Quarter octaves from the size on one level to the next; the paper's factor of 2 is four."""
GOOD = 0.95
"""Share of covered objects from which nothing is advised, and no ratios are searched."""
FAIR = 0.9
"""Share of a class below which `train` says what would help."""
SLIGHT = 0.005
"""What other sizes must add to the covered share to be taken, if they do not add GAIN to the mean best IoU."""
GAIN = 0.02
"""What other ratios must add to the covered share to be taken."""
FEW = 10
"""A class with fewer objects is not judged alone, unless all have fewer."""
HELPS = 0.05
"""What a piece of advice must add to the covered share of all objects or of the worst class to be given."""


@dataclass(frozen=True)
class Advice:
    """Flags that would let the anchors reach more objects.

    flags: to be added to the command. covered: share of all objects with an anchor at the positive IoU then; balanced:
    the same with each object counting 1 / sqrt(objects of its class). worst_class: the class with the smallest share,
    and that share, of those with ten objects or more. anchors: factor on the number of anchors a picture.
    """

    flags: str
    covered: float
    balanced: float
    worst_class: str
    worst_covered: float
    anchors: float

    @property
    def effect(self) -> str:
        cost = "" if self.anchors < 1.05 else f", {self.anchors:.1f} x the anchors"
        return (
            f"then {percent(self.covered)} covered, worst class {self.worst_class} {percent(self.worst_covered)}{cost}"
        )

    def __str__(self) -> str:
        return f"{self.flags}  ({self.effect})"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_anchors(table: Table, config: Config) -> AnchorConfig:
    """The anchor settings with sizes, and ratios where sizes are not enough, that reach most objects of `table`.

    Maximises the share of objects with an anchor at the positive IoU at the training resolution; an object counts
    1 / sqrt(objects of its class), so that a rare class is not given up for a common one. Among equals the mean best
    IoU decides, then the settings as they are, then the nearness to the paper's. Deterministic; a second or so
    whatever the data set's size. Without objects the settings come back as they are.
    """
    boxes = LabelledBoxes.of(table)
    return _fit(_Sample.of(boxes, SEARCHED), config) if len(boxes) else config.anchors


def advise(table: Table, config: Config) -> list[Advice]:
    """What would let the anchors reach clearly more objects, the best first, of equals the cheapest.

    Nothing where they reach 95 % in every class that matters.
    """
    boxes = LabelledBoxes.of(table)
    if not len(boxes):
        return []
    sample, many = _Sample.of(boxes, SEARCHED), _Sample.of(boxes, JUDGED)
    now = _judge(many, config, config, "")
    if now.balanced >= GOOD and now.worst_covered >= GOOD:
        return []
    fitted = config.with_changes({"anchors": _fit(sample, config).model_dump()})
    choices = [
        ("--anchors.auto", fitted),
        (size_flags(fitted.anchors, config.anchors), fitted),
        *_finer_level(sample, config),
        *_larger_pictures(sample, config),
    ]
    found = [_judge(many, other, config, flags) for flags, other in choices]
    helpful = [a for a in found if a.balanced > now.balanced + HELPS or a.worst_covered > now.worst_covered + HELPS]
    return sorted(helpful, key=lambda a: (-round(a.balanced * 10), a.anchors))


def coverage_summary(table: Table, config: Config) -> str:
    """What `train` says before step 1: covered shares; where a class is poorly covered, what would help."""
    found = coverage(table, config)
    if not found.all.objects:
        return f"{table.split}: no objects; every picture is background"
    lines = [in_words(found, config)]
    warned = warning(found)
    if warned:
        lines.append(warned)
    if min(reach.at_positive_iou for reach in found.per_class.values() if reach.at_positive_iou is not None) < FAIR:
        lines += [f"  add {advice}" for advice in advise(table, config)]
    return "\n".join(lines)


def size_flags(anchors: AnchorConfig, usual: AnchorConfig) -> str:
    """The settings that differ from `usual` as flags: "--anchors.sizes 16 32 64"."""
    flags = [f"--anchors.sizes {_numbers(anchors.sizes)}"]
    if anchors.ratios != usual.ratios:
        flags.append(f"--anchors.ratios {_numbers(anchors.ratios)}")
    return " ".join(flags)


@dataclass(frozen=True)
class _Sample:
    """Some objects of every class that has any: C classes.

    labels: C; counts: [C] float64, objects of each there are in all; index: [G] the class of each one in the sample.
    """

    boxes: LabelledBoxes
    labels: tuple[int, ...]
    counts: Tensor
    index: Tensor

    @classmethod
    def of(cls, boxes: LabelledBoxes, limit: int) -> _Sample:
        labels, index, counts = boxes.labels.unique(return_inverse=True, return_counts=True)
        limit = limit if len(boxes) <= limit else max(MIN_PER_CLASS, limit // len(labels))
        chosen = torch.cat([_evenly((index == i).nonzero().squeeze(1), limit) for i in range(len(labels))])
        return cls(boxes.select(chosen), tuple(labels.tolist()), counts.double(), index[chosen])

    @property
    def weights(self) -> Tensor:
        """[C] float64, of sum 1: each object of a class of n counts 1 / sqrt(n)."""
        return self.counts.sqrt() / self.counts.sqrt().sum()

    def class_means(self, values_G: Tensor) -> Tensor:
        """[C] float64: mean of a value of each object."""
        sums = torch.bincount(self.index, values_G.double(), minlength=len(self.labels))
        return sums / torch.bincount(self.index, minlength=len(self.labels))

    def covered(self, config: Config) -> Tensor:
        """[C] float64: share of the objects that an anchor reaches."""
        return self.class_means(self.boxes.best_iou(config) >= config.assignment.positive_iou)


def _evenly(rows: Tensor, limit: int) -> Tensor:
    """At most `limit` of the rows, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, limit).long()]


class _Search:
    """Scores anchor settings on a sample, level by level, since many settings share a size on a level."""

    def __init__(self, sample: _Sample, config: Config):
        self.sample, self.config = sample, config
        self.best_of_level: dict[tuple[int, float, tuple[float, ...]], Tensor] = {}

    def score(self, anchors: AnchorConfig) -> tuple[float, float]:
        """(covered share, mean best IoU) of all objects, each counting 1 / sqrt(objects of its class)."""
        best_G = torch.stack([self._best(i, size, anchors.ratios) for i, size in enumerate(anchors.sizes)]).amax(0)
        weights = self.sample.weights
        share = self.sample.class_means(best_G >= self.config.assignment.positive_iou)
        return float(share @ weights), float(self.sample.class_means(best_G) @ weights)

    def _best(self, index: int, size: float, ratios: tuple[float, ...]) -> Tensor:
        key = (index, size, ratios)
        if key not in self.best_of_level:
            level = self.config.model.level_numbers[index]
            anchors = replace(Anchors.from_config(self.config), levels=(level,), sizes=(size,), ratios=ratios)
            self.best_of_level[key] = self.sample.boxes.best_iou(self.config, anchors)
        return self.best_of_level[key]


def _fit(sample: _Sample, config: Config) -> AnchorConfig:
    search = _Search(sample, config)
    anchors = _best_sizes(search, config)
    covered, _ = search.score(anchors)
    if covered < GOOD:
        for ratios in _ratio_sets(sample.boxes, config):
            other = anchors.model_copy(update={"ratios": ratios})
            if search.score(other)[0] >= search.score(anchors)[0] + GAIN:
                anchors = other
    return AnchorConfig.model_validate(anchors.model_dump())


def _best_sizes(search: _Search, config: Config) -> AnchorConfig:
    """The settings with the sizes of the best geometric row; those of now where no other is clearly better."""
    levels = config.model.level_numbers
    now = config.anchors.model_copy(update={"sizes": config.anchor_sizes})
    ranked = []
    for quarters in GROWTHS:
        for first in range(-14, 9):
            steps = [first + quarters * step for step in range(len(levels))]
            sizes = tuple(_readable(4.0 * 2 ** levels[0] * 2 ** (step / 4)) for step in steps)
            anchors = now.model_copy(update={"sizes": sizes})
            covered, mean_iou = search.score(anchors)
            ranked.append(((round(covered * 500), round(mean_iou * 100), quarters, -abs(first)), anchors))
    best = max(ranked, key=lambda pair: pair[0])[1]
    (covered, mean_iou), (covered_now, mean_iou_now) = search.score(best), search.score(now)
    better = covered >= covered_now + SLIGHT or (covered >= covered_now and mean_iou >= mean_iou_now + GAIN)
    return best if better else now


def _ratio_sets(boxes: LabelledBoxes, config: Config) -> list[tuple[float, ...]]:
    """Ratios to try: as many as now at the middles of equal shares of the objects, and those of now with two beyond."""
    resized_G4, _ = boxes.at_training(config)
    sides_G2 = resized_G4[:, 2:] - resized_G4[:, :2]
    log_ratio_G = (sides_G2[:, 1] / sides_G2[:, 0]).double().log()
    now = config.anchors.ratios
    middles = (torch.arange(len(now), dtype=torch.float64) + 0.5) / len(now)
    quantiles = torch.quantile(log_ratio_G, middles).exp().tolist()
    widened = (min(now) / 2, *now, max(now) * 2)
    return [tuple(sorted({round(max(ratio, 0.01), 2) for ratio in ratios})) for ratios in (quantiles, widened)]


def _finer_level(sample: _Sample, config: Config) -> list[tuple[str, Config]]:
    """One level more at the fine end, with usual and with fitted sizes: tiny objects fall between level 3's cells."""
    first, last = config.model.level_numbers[0], config.model.level_numbers[-1]
    if first == 2 or (config.anchors.sizes and not config.anchors.auto):
        return []
    flags = f"--model.levels {first - 1}-{last}"
    finer = config.with_changes({"model.levels": f"{first - 1}-{last}", "anchors.sizes": ()})
    fitted = finer.with_changes({"anchors": _fit(sample, finer).model_dump()})
    return [(flags, fitted)] if config.anchors.auto else [(flags, finer), (f"{flags} --anchors.auto", fitted)]


def _larger_pictures(sample: _Sample, config: Config) -> list[tuple[str, Config]]:
    """The smallest enlargement that covers every class well, or the largest there is."""
    for factor in ENLARGEMENTS:
        size, longest = (round(side * factor / 32) * 32 for side in (config.data.size, config.data.longest))
        larger = config.with_changes({"data.size": size, "data.max_size": longest})
        if float(sample.covered(larger) @ sample.weights) >= GOOD:
            break
    return [(f"--data.size {size} --data.max-size {longest}", larger)]


def _judge(sample: _Sample, config: Config, now: Config, flags: str) -> Advice:
    share = sample.covered(config)
    few = sample.counts < FEW
    worst = int(share.masked_fill(few & ~few.all(), 2).argmin())
    return Advice(
        flags=flags,
        covered=float(share @ sample.counts / sample.counts.sum()),
        balanced=float(share @ sample.weights),
        worst_class=sample.boxes.class_names[sample.labels[worst]],
        worst_covered=float(share[worst]),
        anchors=_anchor_count(config) / _anchor_count(now),
    )


def _anchor_count(config: Config) -> int:
    side = config.data.size
    return Anchors.from_config(config).count(*padded_shape((side, side), config.data.pad_multiple))


def _readable(side: float) -> float:
    return float(round(side)) if side >= 12 else max(1.0, round(side * 2) / 2)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)

"""Why a loss is not finite: which step, pictures, pyramid level and term; the batch is kept for a closer look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from foveal.anchors import Anchors
from foveal.config import Config
from foveal.data.table import Table
from foveal.detections import Batch
from foveal.engine.checkpoint import save_tensors
from foveal.engine.step import autocast
from foveal.errors import TrainingError
from foveal.losses.total import per_level_terms
from foveal.matching import match
from foveal.model.retinanet import RetinaNet


@torch.no_grad()
def explain_non_finite(
    model: RetinaNet,
    anchors: Anchors,
    config: Config,
    batches: Sequence[Batch],
    table: Table,
    step: int,
    folder: Path,
) -> TrainingError:
    """Saves the batch beside the run and returns the error that says what was not finite; weights are as before."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    file = folder / f"non-finite-step-{step}{f'-rank-{rank}' if rank else ''}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    fields = list(Batch.__dataclass_fields__)
    save_tensors(file, {f"{i}.{name}": getattr(b, name) for i, b in enumerate(batches) for name in fields})
    found: list[str] = []
    paths: list[str] = []
    for batch in batches:
        with autocast(batch.images.device, config.train):
            outputs = model(batch.images)
        matched = match(anchors, batch, config.assignment)
        for level, term, sums in per_level_terms(outputs.logits, outputs.deltas, anchors, matched, batch, config.loss):
            bad = ~sums.isfinite()
            if bad.any():
                found.append(f"{term} loss on level P{level}")
                paths += [_path(table, int(row)) for row in batch.rows[bad].tolist()]
    if not found:
        elsewhere = ", or another process's part of the batch" if dist.is_initialized() else ""
        found = [f"the gradient{elsewhere} (every loss term here is finite)"]
        paths = [_path(table, int(row)) for batch in batches for row in batch.rows.tolist()]
    return TrainingError(
        f"step {step}: {', '.join(dict.fromkeys(found))} is not finite; pictures: "
        f"{', '.join(dict.fromkeys(paths))}; the batch is saved as {file} and the last checkpoint is untouched. "
        f"Look at these labels with `foveal inspect`, lower --train.lr (now {config.train.lr:g}), raise "
        f"--train.warmup (now {config.train.warmup}) or set --train.clip 10"
    )


def _path(table: Table, row: int) -> str:
    return str(table.path(row)) if row >= 0 else "(unknown)"

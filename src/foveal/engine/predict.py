"""From pictures to detections in their own pixels: the trained network behind one callable.

Letters: B images, D detections, H W pixels of the padded picture.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch import Tensor, nn

from foveal.anchors import Anchors
from foveal.boxes import clip
from foveal.config import Config
from foveal.data.arrays import to_array
from foveal.data.images import padded_shape, resize, target_size
from foveal.data.loader import eval_batches
from foveal.data.table import Table
from foveal.decoding import Found, decode
from foveal.detections import Batch, Detections, DetectionTable, Objects
from foveal.engine.checkpoint import RunInfo, Which, read_run, run_weights
from foveal.engine.run_numbers import threshold_of
from foveal.errors import CheckpointError, UsageError
from foveal.model.retinanet import build_model
from foveal.wording import counted

log = logging.getLogger("foveal")


@dataclass(frozen=True)
class Prepared:
    """A picture as the network takes it.

    pixels: [3, h, w] uint8, resized. shape: (H, W) it is padded to. original_size: (height, width) before.
    """

    pixels: Tensor
    shape: tuple[int, int]
    original_size: tuple[int, int]


class Engine(Protocol):
    """What runs the network: PyTorch (`TorchEngine`), or one of `runtime/`."""

    @property
    def device(self) -> torch.device: ...

    def find(self, batch: Batch, min_score: float) -> list[Found]:
        """What is in each picture of a batch, in pixels of the batch, scores from `min_score`, best first."""
        ...


class TorchEngine:
    """The network in PyTorch.

    The model is left in the mode it was found in, and no random number is drawn.
    """

    def __init__(self, model: nn.Module, config: Config):
        self.model = model
        self.config = config
        self.anchors = Anchors.from_config(config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def find(self, batch: Batch, min_score: float) -> list[Found]:
        # no_grad rather than inference_mode: the caller may change the boxes in place, or cache what training uses.
        with _evaluating(self.model), torch.no_grad():
            outputs = self.model(batch.images.to(self.device))
            return decode(
                outputs,
                self.anchors,
                (int(batch.images.shape[-2]), int(batch.images.shape[-1])),
                batch.sizes.to(self.device),
                self.config.inference,
                min_score,
                padding_answers=self.config.assignment.padding == "background",
            )


class Detector:
    """Finds objects: `detector(picture)` or `detector([picture, ...])`.

    `engine` runs the network; a module is run by PyTorch. `threshold` is the score from which detections are shown when
    the caller does not say: `recommended`, the one that was found for these weights; where that is None,
    `inference.show_threshold` stands in.
    """

    def __init__(
        self,
        engine: nn.Module | Engine,
        config: Config,
        class_names: Sequence[str],
        threshold: float | None = None,
        category_ids: Sequence[int] | None = None,
    ):
        self.engine: Engine = TorchEngine(engine, config) if isinstance(engine, nn.Module) else engine
        self.config = config
        self.class_names = tuple(class_names)
        self.category_ids = tuple(range(len(self.class_names)) if category_ids is None else category_ids)
        self.recommended = threshold
        self.threshold = config.inference.show_threshold if threshold is None else threshold
        self.anchors = Anchors.from_config(config)

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def model(self) -> nn.Module:
        """The network itself, for those who look inside; UsageError where another engine than PyTorch runs it."""
        if not isinstance(self.engine, TorchEngine):
            raise UsageError(f"{self!r}: only PyTorch shows what is inside a network; load the run itself")
        return self.engine.model

    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], min_score: float | None = None, batch_size: int = 8
    ) -> list[Detections]: ...
    @overload
    def __call__(self, images: Any, min_score: float | None = None, batch_size: int = 8) -> Detections: ...
    def __call__(
        self, images: Any, min_score: float | None = None, batch_size: int = 8
    ) -> Detections | list[Detections]:
        """Detections of one picture, or a list of them for a list or tuple of pictures, best score first.

        A picture is a path, a Pillow image, a uint8 array [H, W, 3] (RGB), or a uint8 tensor [3, H, W].
        Only scores of at least `min_score` (default: `threshold`) are returned. Boxes are in the picture's own pixels.
        Pictures of a list that share a shape after padding go through the network together, `batch_size` at a time.
        """
        if not isinstance(images, list | tuple):
            return self.predict_prepared([self.prepare(images)], min_score)[0]
        found: list[Detections] = [Detections.empty(self.class_names)] * len(images)
        waiting: dict[tuple[int, int], list[tuple[int, Prepared]]] = {}
        for index, image in enumerate(images):
            prepared = self.prepare(image)
            group = waiting.setdefault(prepared.shape, [])
            group.append((index, prepared))
            if len(group) == batch_size:
                self._finish(waiting.pop(prepared.shape), found, min_score)
        for group in waiting.values():
            self._finish(group, found, min_score)
        return found

    def lowest_score(self, min_score: float | None) -> float:
        """The score that is asked for, or `threshold` where none is; UsageError outside 0 .. 1."""
        if min_score is None:
            return self.threshold
        if not 0 <= min_score <= 1:
            raise UsageError(f"min_score {min_score:g}: give a score from 0 to 1, such as .5")
        return min_score

    def prepare(self, image: Any, max_pixels: int | None = None) -> Prepared:
        """Reads and resizes a picture; the padding follows from its size alone, so batched equals single."""
        data = self.config.data
        array = to_array(image, data.max_pixels if max_pixels is None else max_pixels)
        array = np.require(array, requirements=["C", "W"])  # torch takes no read-only arrays
        size = array.shape[0], array.shape[1]
        target = target_size(size, data.size, data.longest)
        pixels = torch.from_numpy(resize(array, target)).permute(2, 0, 1)
        return Prepared(pixels, padded_shape(target, data.pad_multiple), size)

    def predict_prepared(self, pictures: Sequence[Prepared], min_score: float | None = None) -> list[Detections]:
        """Detections of prepared pictures that share one padded shape, as one batch."""
        batch = Batch.pack(
            [picture.pixels for picture in pictures],
            [Objects.empty()] * len(pictures),
            shape=pictures[0].shape,
            original_sizes=[picture.original_size for picture in pictures],
        )
        return self.predict_batch(batch, min_score)

    def predict_batch(self, batch: Batch, min_score: float | None = None) -> list[Detections]:
        """Detections of each picture of a batch, on the CPU, in pixels of `batch.original_sizes`."""
        found = self.engine.find(batch, self.lowest_score(min_score))
        sizes, originals = batch.sizes.tolist(), batch.original_sizes.tolist()
        return [
            Detections(_to_original(boxes.cpu(), size, original), scores.cpu(), labels.cpu(), self.class_names)
            for (boxes, scores, labels), size, original in zip(found, sizes, originals, strict=True)
        ]

    def _finish(self, group: list[tuple[int, Prepared]], found: list[Detections], min_score: float | None) -> None:
        detections = self.predict_prepared([prepared for _, prepared in group], min_score)
        for (index, _), found_here in zip(group, detections, strict=True):
            found[index] = found_here

    def __repr__(self) -> str:
        return (
            f"Detector({self.config.model.backbone}, {counted(len(self.class_names), 'class')}, "
            f"{self.config.data.size} px, threshold {self.threshold:g}, {self.device})"
        )


def load(run: str | os.PathLike[str], device: str | torch.device = "auto", which: Which = "best") -> Detector:
    """The detector of a run folder, or of a run on the hub (`hf://owner/name`, `hf://owner/name@revision`).

    device: auto (CUDA where there is one), cpu, cuda, cuda:1, ...
    which: the `best` weights or the `last`; the threshold is that of these weights. UsageError if there is no such
    device.
    """
    chosen = pick_device(device)
    info = read_run(run)
    model = build_model(info.config, len(info.class_names), pretrained=False, kept_in=info.backbone_folder)
    try:
        model.load_state_dict(run_weights(info.path, which))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{info.path}: its weights do not fit its config.yaml ({first}); restore one of them"
        ) from None
    model.to(chosen).eval()
    return Detector(model, info.config, info.class_names, _threshold(info, which), info.category_ids)


def _threshold(info: RunInfo, which: Which) -> float | None:
    """As `threshold_of`; says so where the run has one, but not for these weights."""
    threshold = threshold_of(info, which)
    if threshold is None and info.threshold is not None:
        log.warning(
            "%s: no threshold was recorded for its %s weights; what they find is shown from %g "
            "(inference.show_threshold)",
            info.path,
            which,
            info.config.inference.show_threshold,
        )
    return threshold


def pick_device(device: str | torch.device) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one, else the CPU. UsageError if it cannot compute."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # which the meta device, for shapes alone, has no answer to
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {device!s}: cannot be used ({reason}); use auto or cpu") from None
    return chosen


def detect_table(
    detector: Detector,
    table: Table,
    batch_size: int = 8,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    rank: int = 0,
    world: int = 1,
) -> DetectionTable:
    """Detects in every picture of a split, for evaluation: scores from `inference.score_threshold`.

    `progress(done, total)` is called after each batch. With several processes each takes its share of the pictures.
    """
    config = detector.config.with_changes({"data.workers": workers})

    def found() -> Iterator[tuple[int, Detections]]:
        done = 0
        for batch in eval_batches(table, config, batch_size, rank, world):
            yield from zip(
                batch.rows.tolist(), detector.predict_batch(batch, config.inference.score_threshold), strict=True
            )
            done += len(batch)
            if progress:
                progress(done, len(table))

    return DetectionTable.of(found())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, then each module back to its own: parts may be frozen while the rest trains."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _to_original(boxes: Tensor, size: list[int], original: list[int]) -> Tensor:
    """Boxes [D, 4] from the pixels of the resized picture to those of the original, clipped to it."""
    y, x = original[0] / size[0], original[1] / size[1]
    return clip(boxes * torch.tensor([x, y, x, y]), (original[0], original[1]))

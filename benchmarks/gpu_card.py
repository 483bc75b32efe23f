"""What the GPU's measurements share: sizes, random inputs, and time and memory as the device sees them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Timing, measure
from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, Config
from foveal.detections import Batch, Objects

Row = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """Where and how large: a GPU at the sizes of the paper's largest pictures, or a CPU at sizes that show it runs.

    shape: (height, width) of the network input: 800 x 1333 padded to multiples of 32.
    """

    device: str = "cuda"
    shape: tuple[int, int] = (800, 1344)
    batch: int = 16
    classes: int = 80
    objects: tuple[int, ...] = (7, 100, 500)
    runs: int = 20
    step_runs: int = 10
    side: int = 8192
    channels: int = 256

    @classmethod
    def tiny(cls) -> Card:
        """Everything in seconds on a CPU, kernels in Triton's interpreter."""
        return cls("cpu", (32, 64), batch=2, classes=3, objects=(1, 2, 3), runs=1, step_runs=1, side=64, channels=8)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def low_precision(self) -> torch.dtype:
        """bfloat16, which a CPU may take a minute for."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    def timed(self, work: Callable[[], Any], runs: int | None = None) -> Timing:
        """Seconds of each run between two events on the device, after three runs that do not count."""
        runs = runs or self.runs
        if not self.on_gpu:
            return measure(work, runs, warm_up=0)
        for _ in range(3):
            work()
        # The host may run ahead, as in training: what it waits for, the device idles through, and that is counted.
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
        torch.cuda.synchronize()
        for before, after in events:
            before.record()
            work()
            after.record()
        torch.cuda.synchronize()
        seconds = [before.elapsed_time(after) / 1000 for before, after in events]
        return Timing(statistics.median(seconds), min(seconds), max(seconds), runs)

    def peak_mb(self, work: Callable[[], Any]) -> float | str:
        """The most megabytes that torch held while `work` ran, above what it held before."""
        if not self.on_gpu:
            return ""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)

    def pictures(self, objects: int) -> Batch:
        """Random pictures of the full shape with boxes of 12 to 245 pixels a side, on the device."""
        generator = torch.Generator().manual_seed(1)
        height, width = self.shape
        labelled = []
        for _ in range(self.batch):
            sides = torch.exp(torch.rand(objects, 2, generator=generator) * 3 + 2.5)
            corners = torch.rand(objects, 2, generator=generator) * torch.tensor([width, height])
            boxes = torch.cat([corners, torch.minimum(corners + sides, torch.tensor([width, height]))], 1)
            labelled.append(Objects.of(boxes, torch.randint(self.classes, (objects,), generator=generator)))
        images = [torch.randint(256, (3, *self.shape), generator=generator, dtype=torch.uint8) for _ in labelled]
        return Batch.pack(images, labelled).to(self.device)

    def maps(self, channels: int, mean: float, dtype: torch.dtype, channels_last: bool = True) -> list[Tensor]:
        """A head's outputs on every level, N(mean, 1)."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return [
            torch.empty(self.batch, channels, *cells, dtype=dtype, device=self.device, memory_format=layout).normal_(
                mean
            )
            for cells in ANCHORS.feature_shapes(*self.shape)
        ]


ANCHORS = Anchors.from_config(Config())
ASSIGNMENT = AssignmentConfig()

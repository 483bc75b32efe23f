"""From pictures to detections by two stages, and how good those are.

Letters: B pictures, R proposals, K classes, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from foveal import boxes as algebra
from foveal.config import Config, InferenceConfig
from foveal.data.detect import read_data
from foveal.decoding import Found
from foveal.detections import Batch, Detections
from foveal.engine.checkpoint import read_run, run_weights
from foveal.engine.evaluate import evaluate_detections
from foveal.engine.predict import Detector, detect_table, pick_device
from foveal.errors import UsageError
from foveal.nms import batched_nms
from studies.table2_stages.faster_rcnn import FasterRCNN
from studies.table2_stages.rois import proposals
from studies.table2_stages.settings import Settings
from studies.table2_stages.stage_losses import moved


class TwoStageDetector(Detector):
    """Foveal's `Detector` with two stages inside: it reads, resizes, batches and scales back in the same way."""

    model: FasterRCNN

    def __init__(self, model: FasterRCNN, config: Config, settings: Settings, class_names: tuple[str, ...]):
        super().__init__(model.eval(), config, class_names)
        self.settings = settings

    @torch.no_grad()
    def predict_batch(self, batch: Batch, min_score: float | None = None) -> list[Detections]:
        """Detections of each picture of a batch, on the CPU, in pixels of `batch.original_sizes`."""
        lowest = self.lowest_score(min_score)
        detections = []
        for image, (boxes_RK4, scores_RK) in enumerate(self._both_stages(batch)):
            (height, width), original = batch.sizes[image].tolist(), batch.original_sizes[image].tolist()
            inference = self.config.inference
            boxes, scores, labels = best_of_picture(boxes_RK4, scores_RK, (height, width), inference, lowest)
            y, x = original[0] / height, original[1] / width
            boxes = algebra.clip(boxes.cpu() * torch.tensor([x, y, x, y]), (original[0], original[1]))
            detections.append(Detections(boxes, scores.cpu(), labels.cpu(), self.class_names))
        return detections

    def _both_stages(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Of each picture: where its proposals end for each class [R, K, 4], and the classes' probabilities [R, K]."""
        shape = int(batch.images.shape[-2]), int(batch.images.shape[-1])
        features = self.model.features(batch.images.to(self.device))
        outputs, sizes_B2 = self.model.propose(features), batch.sizes.to(self.device)
        count, assignment = self.settings.proposals, self.config.assignment
        found = proposals(outputs, self.anchors, shape, sizes_B2, count, assignment)
        boxes_R4 = torch.cat(found)
        image_R = torch.cat([torch.full_like(b[:, 0], image, dtype=torch.int64) for image, b in enumerate(found)])
        said = self.model.classify(features, boxes_R4, image_R)
        counts = [len(boxes) for boxes in found]
        scores_RK = said.logits.float().softmax(1)[:, :-1]
        return list(zip(moved(boxes_R4, said.deltas).split(counts), scores_RK.split(counts), strict=True))


def best_of_picture(
    boxes_RK4: Tensor, scores_RK: Tensor, size: tuple[int, int], config: InferenceConfig, lowest: float
) -> Found:
    """The detections of one picture of (height, width): scores from `lowest`, NMS of each class, the best 100."""
    row_D, label_D = (scores_RK >= lowest).nonzero().unbind(1)
    boxes_D4 = algebra.clip(boxes_RK4[row_D, label_D], size)
    left_D = algebra.area(boxes_D4) > 0
    boxes_D4, scores_D, label_D = boxes_D4[left_D], scores_RK[row_D, label_D][left_D], label_D[left_D]
    kept = batched_nms(boxes_D4, scores_D, label_D, config.nms_iou)[: config.max_detections]
    return boxes_D4[kept], scores_D[kept], label_D[kept]


def load(folder: Path, settings: Settings, device: str = "auto") -> TwoStageDetector:
    """The detector of a run's last weights."""
    run = read_run(folder)
    model = FasterRCNN(run.config, len(run.class_names), settings.width, pretrained=False)
    model.load_state_dict(run_weights(folder, "last"))
    return TwoStageDetector(model.to(pick_device(device)), run.config, settings, run.class_names)


def score(folder: Path, data: Path, split: str, settings: Settings, device: str = "auto") -> Mapping[str, float | None]:
    """COCO's numbers of a run's last weights on a split, shares of 1, by Foveal's evaluator."""
    detector = load(folder, settings, device)
    table = read_data(data, split, detector.config.data.format)
    if table.class_names != detector.class_names:
        raise UsageError(
            f"{data}: split {split!r} has the classes {', '.join(table.class_names)}, the run {folder} knows "
            f"{', '.join(detector.class_names)}; give both splits the same list"
        )
    found = detect_table(detector, table, workers=detector.config.data.workers)
    return evaluate_detections(table, found).numbers

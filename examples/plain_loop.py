"""Foveal's parts in a plain PyTorch loop over a Dataset of one's own: nothing hidden, every part exchangeable."""

import torch
from torch.utils.data import DataLoader, Dataset

from foveal import Batch, Objects, preset
from foveal.anchors import Anchors
from foveal.losses.total import detector_loss
from foveal.matching import match
from foveal.model.retinanet import build_model


class Squares(Dataset):
    """Your data: a picture [3, H, W] uint8 and its objects, boxes in pixels. Here, bright squares on grey."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Objects]:
        x, y, side = 3 * (index % 8), 5 * (index % 5), 28 + index % 9
        image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
        image[:, y : y + side, x : x + side] = 220
        return image, Objects.of([[x, y, x + side, y + side]], labels=[0])


def pack(samples: list[tuple[torch.Tensor, Objects]]) -> Batch:
    images, objects = zip(*samples, strict=True)
    return Batch.pack(images, objects)


torch.manual_seed(0)
config = preset("light").with_changes({"model": {"weights": "none", "batch_norm": "trained", "levels": "3-5"}})
model = build_model(config, num_classes=1)
anchors = Anchors.from_config(config)
optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
losses = []
for epoch in range(3):
    for batch in DataLoader(Squares(), batch_size=4, shuffle=True, collate_fn=pack):
        outputs = model(batch.images)
        matched = match(anchors, batch, config.assignment)
        sums = detector_loss(outputs.logits, outputs.deltas, anchors, matched, batch, config.loss)
        loss = (sums.classification.sum() + sums.box.sum()) / sums.positives.sum().clamp(min=1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: loss {losses[-1]:.3f}")

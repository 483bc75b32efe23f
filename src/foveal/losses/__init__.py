"""Losses on logits and offsets; usable on any tensor, without a detector.

import torch
from foveal.losses import Focal
logits, targets = torch.randn(8, 3, requires_grad=True), torch.rand(8, 3) < 0.1
Focal(alpha=0.25, gamma=2.0)(logits, targets).sum().backward()
"""

from foveal.losses.boxes import smooth_l1
from foveal.losses.classification import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal

__all__ = ["CrossEntropy", "Focal", "FocalStar", "Hinge", "QualityFocal", "Varifocal", "smooth_l1"]

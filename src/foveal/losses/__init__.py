"""Losses on logits and offsets; usable on any tensor, without a detector.

from foveal.losses import Focal
loss = Focal(alpha=0.25, gamma=2.0)
loss(logits, targets).sum().backward()
"""

from foveal.losses.boxes import smooth_l1
from foveal.losses.classification import CrossEntropy, Focal, FocalStar, Hinge, QualityFocal, Varifocal

__all__ = ["CrossEntropy", "Focal", "FocalStar", "Hinge", "QualityFocal", "Varifocal", "smooth_l1"]

"""The fast path of `matching.match` in tensors, for where neither Triton nor the compiled kernel is there.

From the objects to the anchors, equal to `matching.match_image` bit for bit.

Only pairs of an object and an anchor that can matter are compared (`reach.py` finds them), by the plain path's own IoU.
Time and memory grow with the objects and with the anchors, not with their product. `assign` goes so:

1. Each object asks for the anchors that reach the lowest threshold, or the best IoU known of it where that is lower. So
   its best anchors are among its pairs.
2. Each anchor keeps the rank of its best pair; the best anchors of each object are marked.
3. An anchor that is some object's best but reaches no threshold may overlap another object more. Where the policy
   `all` makes it positive it is compared again, with every object that could.

There is no loop over pictures or objects. The host waits for the device only where the size of a tensor follows from
values: how many pairs there are, and how many anchors are candidates, positive, ignored.

Letters: B images, N anchors of an image, X = B x N anchors of the batch, G objects, S shapes of anchors, Q pairs,
C candidate anchors, D doubtful ones.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from foveal.anchors import Anchors
from foveal.config import AssignmentConfig
from foveal.detections import Batch
from foveal.reach import Reach, places

_LAST = 2**32 - 1


def assign(anchors: Anchors, batch: Batch, config: AssignmentConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The positive anchors of a batch, the object of each, the ignored anchors, as `matching.Match` has them."""
    reach = Reach.of(anchors, batch, on_padding=config.padding == "background")
    lowest = min(config.background_iou, config.positive_iou)
    best_counts = config.low_quality != "none"
    num_anchors = len(batch) * reach.num_anchors
    rank_X = torch.zeros(num_anchors, dtype=torch.int64, device=batch.boxes.device)
    # One place more than anchors: pairs that mark nothing mark that one, which is cheaper than picking the others.
    best_X1 = torch.zeros(num_anchors + 1, dtype=torch.bool, device=batch.boxes.device)

    threshold_G = reach.best_nearby().clamp(max=lowest) if best_counts else torch.full_like(batch.boxes[:, 0], lowest)
    for object_Q, anchor_Q, iou_Q in reach.overlaps(threshold_G[:, None]):
        rank_X.scatter_reduce_(0, anchor_Q, _rank(iou_Q, object_Q), "amax")
        if best_counts:
            # The pairs of an object are all here, so this is its best IoU with any anchor.
            best_G = torch.zeros_like(threshold_G).scatter_reduce_(0, object_Q, iou_Q, "amax")
            is_best_Q = (iou_Q == best_G.index_select(0, object_Q)) & (iou_Q > 0)
            best_X1[torch.where(is_best_Q, anchor_Q, num_anchors)] = True

    # All other anchors are background, or ignored whatever they overlap.
    best_X = best_X1[:-1]
    anchor_C = places(best_X | (rank_X >= _least_rank(lowest)))
    best_C, rank_C = best_X[anchor_C], rank_X[anchor_C]
    if config.low_quality == "authors":
        best_C &= rank_C >= _least_rank(config.background_iou)
    if config.low_quality == "all":
        _compare_again(reach, rank_X, anchor_C[rank_C < _least_rank(lowest)])
        rank_C = rank_X[anchor_C]
    # However low the threshold, an IoU of 0 is not positive.
    positive_C = best_C | (rank_C >= max(_least_rank(config.positive_iou), _LAST + 1))
    ignored_X = _nobodys(reach, config)
    ignored_X[anchor_C[rank_C >= _least_rank(config.background_iou)]] = True
    ignored_X[anchor_C[positive_C]] = False
    return anchor_C[positive_C], _object_of(rank_C[positive_C]), places(ignored_X)


def _compare_again(reach: Reach, rank_X: Tensor, doubtful_D: Tensor) -> None:
    """Completes in place the ranks of anchors whose best known pair is below the threshold that was asked for.

    A better pair has a higher IoU than the known one. So the lowest one known of a shape in a picture is the threshold
    there. Shapes without a doubtful anchor ask for an IoU of 1: for next to nothing.
    """
    if not len(doubtful_D):
        return
    known_D = _iou_of(rank_X[doubtful_D])
    image_D, shape_D = reach.image_and_shape(doubtful_D)
    num_images = len(reach.batch)
    lowest_BS = known_D.new_ones(num_images * reach.num_shapes)
    lowest_BS.scatter_reduce_(0, image_D * reach.num_shapes + shape_D, known_D, "amin")
    threshold_GS = lowest_BS.view(num_images, -1)[reach.batch.image_index]
    doubtful_X = torch.zeros_like(rank_X, dtype=torch.bool).index_fill_(0, doubtful_D, True)
    for object_Q, anchor_Q, iou_Q in reach.overlaps(threshold_GS, only_X=doubtful_X):
        rank_X.scatter_reduce_(0, anchor_Q, _rank(iou_Q, object_Q), "amax")


def _nobodys(reach: Reach, config: AssignmentConfig) -> Tensor:
    """[X] bool: anchors that are ignored whatever they overlap, unless that makes them positive."""
    if config.padding == "ignored":
        nobodys_BN = reach.on_padding()
    else:
        nobodys_BN = torch.zeros(len(reach.batch), reach.num_anchors, dtype=torch.bool, device=reach.anchors.device)
    if config.background_iou == 0:
        # The best IoU of every anchor is 0 or more; but where there are no objects there is no best.
        nobodys_BN |= torch.bincount(reach.batch.image_index, minlength=len(reach.batch))[:, None] > 0
    nobodys_X = nobodys_BN.view(-1)
    if reach.batch.crowd.any():
        for anchor_Q in reach.in_crowds(config.crowd_overlap):
            nobodys_X[anchor_Q] = True
    return nobodys_X


# The rank of a pair is its IoU and its object in one integer: the higher IoU ranks first, then the lower object. Floats
# from 0 up are ordered as their bits are, so one maximum finds both. An anchor without a pair has 0.


def _rank(iou_Q: Tensor, object_Q: Tensor) -> Tensor:
    return (iou_Q.view(torch.int32).long() << 32) + (_LAST - object_Q)


def _iou_of(rank_D: Tensor) -> Tensor:
    return (rank_D >> 32).int().view(torch.float32)


def _object_of(rank_C: Tensor) -> Tensor:
    return _LAST - (rank_C & _LAST)


def _least_rank(iou: float) -> int:
    """What every pair reaches whose IoU is at least this, in float32, and no anchor without a pair."""
    (bits,) = struct.unpack("<i", struct.pack("<f", iou))
    return max(int(bits) << 32, 1)

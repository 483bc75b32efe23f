"""Which anchors and which RoIs of a picture are learnt from: some at random, at a ratio, or the hardest.

Letters: N candidates of a picture, S picked ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foveal.losses.mining import hardest_apart

HARDEST_NMS = 0.7
"""Of two RoIs that overlap more than this only the harder one is picked (Shrivastava et al. 2016, section 4.2)."""


def at_random(object_N: Tensor, background_N: Tensor, count: int, share: float, rng: np.random.Generator) -> Tensor:
    """[S] int64, ascending: at most `count` candidates, at most a `share` of them objects; the rest is background.

    Of 100 objects and 900 backgrounds, 64 at a share of a quarter are 16 and 48. Where objects are few, background
    takes their places: 3 and 61, 0 and 64. Where background is short there are fewer: objects never take its places.
    """
    most = int(count * share)
    objects = _some(object_N, most, rng)
    background = _some(background_N, count - len(objects), rng)
    return torch.cat([objects, background]).sort().values


def hardest(loss_N: Tensor, boxes_N4: Tensor, count: int) -> Tensor:
    """[S] int64, ascending: the `count` candidates with the highest loss, after NMS by loss (Shrivastava et al. 2016).

    Neither objects nor background have a share: what is hard is what counts.
    """
    candidates_1N = torch.ones_like(loss_N, dtype=torch.bool)[None]
    count_1 = torch.tensor([count], device=loss_N.device)
    return hardest_apart(loss_N[None], candidates_1N, boxes_N4, count_1, HARDEST_NMS)[0].nonzero().squeeze(1)


def _some(candidate_N: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """[min(count, candidates)] int64: so many of the candidates, at random."""
    found = candidate_N.nonzero().squeeze(1)
    order = torch.from_numpy(rng.permutation(len(found))[:count])
    return found[order.to(found.device)]

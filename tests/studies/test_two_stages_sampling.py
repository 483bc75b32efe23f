"""What the second stage learns from: proposals and labels, the ratios, the hardest, and what each of them costs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foveal.anchors import Anchors
from foveal.config import AssignmentConfig, LossConfig
from foveal.detections import Batch, Objects
from foveal.matching import Match
from foveal.model.retinanet import Outputs
from studies.table2_stages.faster_rcnn import RoiOutputs
from studies.table2_stages.rois import Rois, labelled, proposals
from studies.table2_stages.sampling import at_random, hardest
from studies.table2_stages.settings import settings_of
from studies.table2_stages.stage_losses import anchor_losses, moved, over_pictures, roi_losses
from studies.table2_stages.two_stage_loss import pick_anchors, pick_rois

CROSS_ENTROPY = LossConfig(name="cross_entropy")
# 2 x 2 anchors of 8 pixels on a picture of 16.
FOUR = Anchors(levels=(3,), sizes=(8.0,), scales=(1.0,), ratios=(1.0,))


def rng(step: int = 0) -> np.random.Generator:
    return np.random.default_rng((0, step))


def batch_of(*objects: Objects, side: int = 16) -> Batch:
    return Batch.pack([torch.zeros(3, side, side, dtype=torch.uint8)] * len(objects), objects)


@pytest.mark.parametrize(
    ("objects", "background", "picked"),
    [
        pytest.param(100, 900, (16, 48), id="one to three"),
        pytest.param(3, 900, (3, 61), id="few objects"),
        pytest.param(0, 900, (0, 64), id="no object"),
        pytest.param(100, 10, (16, 10), id="little background"),
        pytest.param(100, 0, (16, 0), id="no background"),
        pytest.param(0, 0, (0, 0), id="nothing"),
        pytest.param(5, 7, (5, 7), id="fewer than wanted"),
    ],
)
def test_64_candidates_with_a_quarter_of_objects(objects, background, picked):
    # Half of the objects first, half of them last, and as many candidates that are neither.
    kind = torch.tensor([1] * (objects // 2) + [0] * background + [2] * 20 + [1] * (objects - objects // 2))
    found = at_random(kind == 1, kind == 0, 64, 0.25, rng())
    assert ((kind[found] == 1).sum(), (kind[found] == 0).sum()) == picked
    assert len(found.unique()) == len(found) == sum(picked)
    assert found.tolist() == sorted(found.tolist())


def test_which_ones_follows_from_the_generator_and_all_have_their_turn():
    objects, background = torch.arange(40) < 10, torch.arange(40) >= 10
    first = at_random(objects, background, 8, 0.25, rng(0))
    assert torch.equal(at_random(objects, background, 8, 0.25, rng(0)), first)
    seen = {i for step in range(60) for i in at_random(objects, background, 8, 0.25, rng(step)).tolist()}
    assert seen == set(range(40))


def apart(count: int) -> torch.Tensor:
    """[count, 4] boxes of ten pixels that do not touch."""
    left = 20.0 * torch.arange(count)
    return torch.stack([left, torch.zeros(count), left + 10, torch.full((count,), 10.0)], 1)


def test_the_hardest_are_those_with_the_highest_loss():
    assert hardest(torch.tensor([0.1, 5.0, 0.2, 3.0, 4.0]), apart(5), 3).tolist() == [1, 3, 4]
    assert hardest(torch.tensor([0.1, 5.0]), apart(2), 3).tolist() == [0, 1]
    assert hardest(torch.zeros(0), apart(0), 3).tolist() == []


def test_of_two_boxes_that_overlap_by_more_than_seven_tenths_the_harder_is_taken():
    boxes = apart(4)
    boxes[1] = torch.tensor([0.0, 0.0, 10.0, 8.0])  # IoU .8 with box 0
    boxes[3] = torch.tensor([40.0, 0.0, 50.0, 6.0])  # IoU .6 with box 2
    assert hardest(torch.tensor([4.0, 5.0, 2.0, 3.0]), boxes, 3).tolist() == [1, 2, 3]


def test_anchors_of_each_picture_are_half_objects_and_none_is_ignored():
    # Picture 0: anchors 0 to 9 are objects, 10 to 19 ignored; picture 1 has one object, its anchor 5.
    objects = torch.tensor([*range(10), 105])
    matched = Match(objects, torch.zeros(11, dtype=torch.int64), torch.arange(10, 20), num_images=2, num_anchors=100)
    picked = pick_anchors(matched, 8, rng())
    first, second = picked[picked < 100], picked[picked >= 100]
    assert (len(first), int((first < 10).sum())) == (8, 4)
    assert (len(second), int((second == 105).sum())) == (8, 1)
    assert not ((picked >= 10) & (picked < 20)).any()


def test_proposals_are_the_best_of_a_picture_inside_it_and_apart():
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0]).reshape(1, 1, 2, 2).repeat(2, 1, 1, 1)
    deltas = torch.zeros(2, 4, 2, 2)
    deltas[1, 0, 1, 0] = 1.0  # in picture 1, anchor 2 moves one side to the right, onto anchor 3
    deltas[1, 2, 0, 1] = math.log(2)  # and anchor 1 becomes twice as wide, half of it outside
    args = (FOUR, (16, 16), torch.tensor([[16, 16], [16, 16]]))
    first, second = proposals(Outputs((logits,), (deltas,)), *args, 3, AssignmentConfig())
    torch.testing.assert_close(first, torch.tensor([[8.0, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]]))
    torch.testing.assert_close(second, torch.tensor([[4.0, 0, 16, 8], [8, 8, 16, 16]]))
    # Four at most from the level: now anchor 0 is the third.
    assert proposals(Outputs((logits,), (deltas,)), *args, 4, AssignmentConfig())[1].tolist()[2] == [0, 0, 8, 8]


def test_rois_are_proposals_and_objects_labelled_at_half_an_iou():
    objects = Objects.of([[0, 0, 10, 10], [0, 12, 16, 16]], [1, 0], [False, True])
    proposed = [
        torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 4.9], [0, 12, 8, 16]]),  # IoU .5, .49, in the crowd region
        torch.tensor([[1.0, 1, 5, 5]]),  # a picture without objects
    ]
    rois = labelled(proposed, batch_of(objects, Objects.empty()), 3, AssignmentConfig())
    box, small, other = [0.0, 0.0, 10.0, 10.0], pytest.approx([0, 0, 10, 4.9]), [1.0, 1.0, 5.0, 5.0]
    assert rois.boxes.tolist() == [[0.0, 0.0, 10.0, 5.0], small, box, other]
    assert rois.label.tolist() == [1, 3, 1, 3]
    assert rois.target.tolist() == [box, small, box, other]
    assert rois.image.tolist() == [0, 0, 0, 1]


def two_pictures() -> Rois:
    """40 RoIs of objects and 200 of background in each of two pictures, all apart; 2 classes."""
    boxes, label = apart(240).repeat(2, 1), torch.tensor(([0, 1] * 20 + [2] * 200) * 2)
    return Rois(boxes, torch.arange(2).repeat_interleave(240), label, boxes.clone())


class Says(SimpleNamespace):
    """A second stage that says what it is told to of the RoIs it is shown, by their left sides."""

    box_head = SimpleNamespace(num_classes=2)

    def classify(self, features, boxes_R4, image_R):
        row = image_R * 240 + (boxes_R4[:, 0] / 20).long()
        return RoiOutputs(self.logits[row], self.deltas[row])


def test_rois_of_each_picture_are_one_to_three():
    rois = pick_rois(Says(), [], two_pictures(), 2, settings_of("small", "random"), rng())
    for image in range(2):
        label = rois.label[rois.image == image]
        assert ((label < 2).sum(), (label == 2).sum()) == (16, 48)


def test_ohem_takes_the_hardest_by_both_losses_together_and_keeps_no_ratio():
    rois = two_pictures()
    logits, deltas = torch.zeros(480, 3), torch.zeros(480, 2, 4)
    logits[torch.arange(480), rois.label] = 9.0  # all are easy ...
    logits[100:160] = 0.0  # ... but 60 of background in picture 0, ln 3 each,
    deltas[[3, 5, 7, 9], 1] = 1.0  # ... and four of class 1, which are well named and badly placed: 4 x .5
    deltas[[10, 12], 1] = 50.0  # what is said of another class does not count
    says = Says(logits=logits, deltas=deltas)
    picked = pick_rois(says, [], rois, 2, settings_of("small", "hardest"), rng())
    first = picked[picked.image == 0]
    assert len(picked) == 128
    assert (first.boxes[:, 0] / 20).long().tolist() == [3, 5, 7, 9, *range(100, 160)]


def test_the_second_stages_losses_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    target = torch.tensor([[1.0, 0, 11, 10], [0, 0, 10, 10]])
    rois = Rois(boxes, torch.zeros(2, dtype=torch.int64), torch.tensor([1, 2]), target)
    deltas = torch.zeros(2, 2, 4)
    deltas[:, 0] = 100.0  # of class 0, which neither is
    classes, box = roi_losses(RoiOutputs(torch.zeros(2, 3), deltas), rois)
    torch.testing.assert_close(classes, torch.full((2,), math.log(3)))
    # A tenth of the side is one unit: 1 - .5. Background has no box.
    torch.testing.assert_close(box, torch.tensor([0.5, 0.0]))
    deltas[0, 1, 0] = 1.0
    assert roi_losses(RoiOutputs(torch.zeros(2, 3), deltas), rois)[1].tolist() == [0, 0]
    torch.testing.assert_close(moved(boxes, deltas)[0, 1], target[0])


def test_the_first_stages_losses_by_hand():
    batch = batch_of(Objects.empty(), Objects.of([[8, 8, 16, 14]], [0]))
    # Anchor 3 of picture 1 answers for the object.
    matched = Match(torch.tensor([7]), torch.tensor([0]), torch.tensor([4]), num_images=2, num_anchors=4)
    outputs = Outputs((torch.zeros(2, 1, 2, 2),), (torch.zeros(2, 4, 2, 2),))
    outputs.logits[0][0, 0, 0, 1] = math.log(3)  # anchor 1 of picture 0 is an object, it says, with .75
    classes, box = anchor_losses(outputs, FOUR, matched, batch, torch.tensor([0, 1, 7]), CROSS_ENTROPY)
    torch.testing.assert_close(classes, torch.tensor([math.log(2), math.log(4), math.log(2)]))
    # dy = -1 / 8, dh = log(6 / 8); smooth L1 at 1 / 9.
    expected = (1 / 8 - 1 / 18) + (math.log(8 / 6) - 1 / 18)
    torch.testing.assert_close(box, torch.tensor([0.0, 0.0, expected]))


def test_a_picture_counts_by_the_mean_of_what_was_picked_in_it():
    found = over_pictures(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 2]), images=3)
    assert float(found) == 2 + 10
    assert float(over_pictures(torch.zeros(0), torch.zeros(0, dtype=torch.int64), images=2)) == 0


def test_the_small_scale_has_an_eighth_of_the_papers_boxes():
    paper, small = settings_of("paper", "random"), settings_of("small", "random")
    assert (paper.anchors, paper.rois, paper.proposals_trained, paper.proposals) == (256, 512, 2000, 1000)
    assert (small.anchors, small.rois, small.proposals_trained, small.proposals) == (32, 64, 250, 125)
    assert (paper.width, small.width) == (1024, 256)

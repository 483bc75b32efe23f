import numpy as np
import pytest
import torch
from PIL import Image

from foveal.detections import Detections, Objects
from foveal.drawing import CROWD, class_colour, contact_sheet, draw_detections, draw_objects

NAMES = ("cell", "platelet")


def detections(boxes, labels=None, scores=None) -> Detections:
    count = len(boxes)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores or [0.9] * count),
        torch.tensor(labels or [0] * count),
        NAMES,
    )


def drawn(size, *args, value=128, **options) -> np.ndarray:
    return np.asarray(draw_detections(np.full((*size, 3), value, dtype=np.uint8), detections(*args, **options)))


def has(image: np.ndarray, colour) -> np.ndarray:
    return (image == np.array(colour)).all(axis=-1)


def test_a_line_lies_around_the_box_in_the_colour_of_its_class():
    image = drawn((240, 240), [[60, 80, 160, 180]])
    yellow = has(image, class_colour(0))
    assert yellow[100, 58:60].all()
    assert yellow[100, 160:162].all()
    assert yellow[180:182, 100].all()
    assert not yellow[81:179, 61:159].any()


def test_a_dark_casing_keeps_the_line_visible_on_its_own_colour():
    background = np.full((240, 240, 3), class_colour(0), dtype=np.uint8)
    image = np.asarray(draw_detections(background, detections([[60, 80, 160, 180]])))
    assert image[100, 57].max() < 40


def test_the_picture_given_is_not_changed():
    background = np.full((120, 120, 3), 128, dtype=np.uint8)
    draw_detections(background, detections([[10, 20, 100, 110]]))
    assert (background == 128).all()


def test_nothing_found_gives_the_picture_itself():
    assert (drawn((50, 70), []) == 128).all()


def test_lines_and_letters_grow_with_the_picture():
    def line_width(side):
        column = has(drawn((side, side), [[0.3 * side, 0.3 * side, 0.7 * side, 0.7 * side]]), class_colour(0))
        return column[side // 2, : side // 2].sum()

    assert line_width(200) == 2
    assert line_width(2400) == 10


def test_the_inside_of_a_small_object_stays_visible():
    image = drawn((400, 400), [[200, 200, 206, 206]])
    assert (image[201:205, 201:205] == 128).all()


def test_a_label_does_not_bury_a_small_neighbour():
    # The platelet lies just above the cell, where the cell's label would go.
    image = drawn((400, 400), [[100, 200, 250, 350], [102, 186, 114, 198]], labels=[0, 1])
    assert (image[187:197, 103:113] == 128).mean() > 0.9


@pytest.mark.parametrize(
    "box", [[0, 0, 30, 30], [270, 0, 300, 30], [0, 170, 30, 200], [270, 170, 300, 200], [0, 0, 300, 200]]
)
def test_labels_stay_inside_the_picture(box):
    colour = class_colour(0)
    image = drawn((200, 300), [box])
    middle = drawn((200, 300), [[120, 90, 150, 120]])
    side = 2 * (30 + 30)
    if box != [0, 0, 300, 200]:
        assert has(image, colour).sum() >= has(middle, colour).sum() - 2 * side


def test_a_box_along_the_border_is_still_drawn():
    image = drawn((200, 300), [[0, 0, 300, 200]])
    assert has(image, class_colour(0))[100, :2].all()
    assert has(image, class_colour(0))[100, -2:].all()


@pytest.mark.parametrize("box", [[-50, -50, -10, -10], [400, 400, 500, 500], [50, 50, 50, 50], [10, 10, 10.4, 10.4]])
def test_boxes_outside_or_without_area_do_no_harm(box):
    assert drawn((200, 300), [box]).shape == (200, 300, 3)


def test_colours_are_stable_and_distinct():
    assert class_colour(0) == (255, 214, 10)
    colours = np.array([class_colour(label) for label in range(80)], dtype=int)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=-1)
    first = distances[:12, :12][~np.eye(12, dtype=bool)]
    assert first.min() > 90
    assert distances[~np.eye(80, dtype=bool)].min() > 0


def test_many_detections_in_a_tiny_picture_are_drawn():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 24, (100, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 20, (100, 2))]).tolist()
    assert drawn((32, 32), boxes).shape == (32, 32, 3)


def test_a_path_can_be_drawn_on(tmp_path):
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    assert detections([[10, 20, 40, 50]]).draw(tmp_path / "a.png").size == (80, 60)


def test_a_class_name_in_korean_can_be_drawn():
    found = Detections(torch.tensor([[10.0, 30, 90, 90]]), torch.tensor([0.9]), torch.tensor([0]), ("적혈구",))
    assert has(np.asarray(draw_detections(np.zeros((100, 100, 3), dtype=np.uint8), found)), class_colour(0)).any()


def test_crowds_are_grey_and_dashed():
    objects = Objects.of([[50, 50, 250, 250]], [1], [True])
    image = np.asarray(draw_objects(np.zeros((300, 300, 3), dtype=np.uint8), objects, NAMES))
    bottom = has(image, CROWD)[251, 50:250]
    assert 0.4 < bottom.mean() < 0.6
    assert not has(image, class_colour(1)).any()


def test_anchors_are_thin_white_lines_below_the_objects():
    objects = Objects.of([[50, 50, 250, 250]], [0])
    anchors = torch.tensor([[40.0, 60, 240, 240], [50, 50, 250, 250]])
    image = np.asarray(draw_objects(np.zeros((300, 300, 3), dtype=np.uint8), objects, NAMES, anchors))
    assert (image[100, 39] == 255).all()
    assert (image[100, 38] == 0).all()
    assert has(image, class_colour(0))[150, 48:50].all()


def test_a_contact_sheet_keeps_proportions_and_order():
    pictures = [
        Image.new("RGB", (200, 100), "red"),
        Image.new("RGB", (50, 100), "lime"),
        Image.new("RGB", (9, 9), "blue"),
    ]
    sheet = np.asarray(contact_sheet(pictures, columns=2, cell=100, gap=10))
    assert sheet.shape == (230, 230, 3)
    assert (sheet[60, 60] == (255, 0, 0)).all()
    assert (sheet[20, 60] != (255, 0, 0)).any(), "a wide picture does not fill its cell's height"
    assert (sheet[60, 170] == (0, 255, 0)).all()
    assert (sheet[170, 60] == (0, 0, 255)).all()


def test_an_empty_contact_sheet_is_a_picture():
    assert contact_sheet([], columns=3).size[0] > 0

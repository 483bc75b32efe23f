"""What the bootstrapping benchmark gives its rows: a part of the labels, and the other pictures without."""

import json

import pytest

from benchmarks.bootstrapping import ROWS, Seed, part


def labels(pictures: int) -> dict:
    return {
        "images": [{"id": 10 + i, "file_name": f"{i}.png", "width": 20, "height": 20} for i in range(pictures)],
        "annotations": [
            {"id": 2 * i + j, "image_id": 10 + i, "category_id": 1, "bbox": [j, 1, 5, 5]}
            for i in range(pictures)
            for j in range(2)
        ],
        "categories": [{"id": 1, "name": "a"}],
    }


@pytest.mark.parametrize(("pictures", "share", "kept"), [(20, 0.1, 2), (20, 1.0, 20), (3, 0.1, 0), (0, 0.5, 0)])
def test_a_part_has_its_share_of_the_pictures_with_all_their_labels(pictures, share, kept):
    before = labels(pictures)
    drawn, others = part(before, share, seed=0)
    assert len(drawn["images"]) == kept
    assert len(drawn["annotations"]) == 2 * kept
    assert {one["image_id"] for one in drawn["annotations"]} == {image["id"] for image in drawn["images"]}
    names = [image["file_name"] for image in drawn["images"]]
    assert sorted(names + others) == sorted(image["file_name"] for image in before["images"])
    assert before == labels(pictures)  # not written to


def test_a_seed_draws_the_same_part_again_and_another_seed_another():
    assert part(labels(20), 0.3, 1) == part(labels(20), 0.3, 1)
    assert part(labels(20), 0.3, 1) != part(labels(20), 0.3, 2)


def test_train_and_val_are_parts_and_the_test_split_is_whole(tmp_path):
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (data / f"{split}.json").write_text(json.dumps(labels(20)))
    seed = Seed.prepare(data, 0.25, 0, tmp_path / "runs")
    sizes = [len(json.loads((seed.part / f"{split}.json").read_text())["images"]) for split in ("train", "val", "test")]
    assert sizes == [5, 5, 20]
    assert len(seed.unlabelled) == 15  # of the training split alone
    assert (seed.part / "images").resolve() == (data / "images").resolve()


def test_each_row_has_a_folder_of_its_own(tmp_path):
    seed = Seed(3, tmp_path, tmp_path, [], tmp_path)
    assert len({seed.run_of(row) for row in ROWS}) == len(ROWS)

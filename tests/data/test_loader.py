"""Batches hold what the table says, and the same pictures however the work is split."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from foveal.config import Config, build_config
from foveal.data.loader import TrainBatches, eval_batches, read_picture, with_sizes
from foveal.data.plan import EVALUATION, Draw
from foveal.data.table import Table, TableBuilder
from foveal.detections import Batch
from foveal.errors import ConfigError, DataError, ImageError

PICTURES = [(20, 30), (30, 20), (24, 24), (40, 25), (20, 30), (33, 21)]


def settings_of(batch_size: int = 2, accumulate: int = 1, seed: int = 0, **data: Any) -> Config:
    return build_config(
        {
            "seed": seed,
            "train": {"batch_size": batch_size, "accumulate": accumulate},
            "data": {"size": 32, "max_size": 64, "pad_multiple": 8, "workers": 0} | data,
        }
    )


EVERYTHING: dict[str, Any] = {
    "vertical_flip": 0.5,
    "quarter_turns": True,
    "scale_jitter": (0.5, 1.5),
    "colour_jitter": 0.5,
    "crop": 0.5,
}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return table_of(tmp_path, PICTURES)


def table_of(folder: Path, sizes: Sequence[tuple[int, int]], stated: bool = True) -> Table:
    """Pictures of noise, each with an object over its whole middle and a crowd region in its corner."""
    builder = TableBuilder(folder, "train", "coco")
    for row, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(row).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        builder.add_image(f"{row}.png", (height, width) if stated else (0, 0))
        builder.add_object((width / 4, height / 4, width / 2, height / 2), row % 2)
        builder.add_object((0, 0, 5, 5), 0, crowd=True)
    return builder.build(("a", "b"))


def first(steps: int, batches: TrainBatches) -> list[list[Batch]]:
    return list(itertools.islice(batches, steps))


def assert_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in Batch.__dataclass_fields__:
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def test_a_batch_holds_pictures_boxes_and_where_they_come_from(table: Table):
    config = settings_of(horizontal_flip=0)
    [batch] = next(iter(TrainBatches(table, config)))
    assert batch.images.dtype == torch.uint8
    assert len(batch) == 2
    for image, row in enumerate(batch.rows.tolist()):
        height, width = PICTURES[row]
        assert batch.original_sizes[image].tolist() == [height, width]
        h, w = batch.sizes[image].tolist()
        assert min(h, w) == 32
        objects = batch.objects_of(image)
        expected = torch.tensor([w / 4, h / 4, w / 2, h / 2])
        torch.testing.assert_close(objects.boxes[0], expected)
        assert objects.labels.tolist() == [row % 2, 0]
        assert objects.crowd.tolist() == [False, True]
        assert (batch.images[image, :, h:] == torch.tensor([124, 116, 104])[:, None, None]).all()
        picture, _ = read_picture(table, Draw(row, EVALUATION, (h, w)), config)
        assert np.array_equal(batch.images[image, :, :h, :w].permute(1, 2, 0).numpy(), picture)


def test_a_step_is_as_many_micro_batches_as_accumulate_says(table: Table):
    for step in first(5, TrainBatches(table, settings_of(batch_size=6, accumulate=3))):
        assert [len(batch) for batch in step] == [2, 2, 2]
        assert len({batch.images.shape for batch in step}) == 1


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_processes_and_micro_batches_split_the_same_pictures(table: Table, world: int, accumulate: int):
    whole = [step[0] for step in first(6, TrainBatches(table, settings_of(batch_size=4, **EVERYTHING)))]
    config = settings_of(batch_size=4, accumulate=accumulate, **EVERYTHING)
    ranks = [first(6, TrainBatches(table, config, 0, rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        parts = [ranks[rank][step][micro] for micro in range(accumulate) for rank in range(world)]
        assert torch.equal(torch.cat([part.rows for part in parts]), batch.rows)
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.boxes for part in parts]), batch.boxes)


def test_workers_and_resuming_change_nothing(table: Table):
    plain = [step[0] for step in first(8, TrainBatches(table, settings_of(**EVERYTHING)))]
    workers = [step[0] for step in first(5, TrainBatches(table, settings_of(workers=2, **EVERYTHING), start_step=3))]
    assert_same(workers, plain[3:])


@pytest.mark.slow
def test_spawned_workers_give_the_same_batches(table: Table):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        spawned = [step[0] for step in first(2, TrainBatches(table, settings_of(workers=1, **EVERYTHING)))]
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert_same(spawned, [step[0] for step in first(2, TrainBatches(table, settings_of(**EVERYTHING)))])


@pytest.fixture
def at_most_20_s() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError("no batch after 20 s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("at_most_20_s")
def test_workers_start_where_opencv_has_threads_asleep(table: Table):
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    cv2.LUT(np.zeros((700, 700, 3), np.uint8), np.arange(256, dtype=np.uint8))
    try:
        assert len(first(1, TrainBatches(table, settings_of(workers=1)))) == 1
    finally:
        cv2.setNumThreads(before)


def test_pictures_differ_from_epoch_to_epoch(tmp_path: Path):
    table = table_of(tmp_path, [(20, 30)])
    batches = first(8, TrainBatches(table, settings_of(batch_size=1)))
    assert len({step[0].images.numpy().tobytes() for step in batches}) == 2


def test_a_cropped_picture_keeps_its_proportions_and_fits(table: Table):
    for step in first(20, TrainBatches(table, settings_of(crop=1))):
        for size in step[0].sizes.tolist():
            assert size[0] <= step[0].images.shape[2]
            assert size[1] <= step[0].images.shape[3]
            assert max(size) >= 16


def test_a_picture_without_objects_is_data(tmp_path: Path):
    Image.new("RGB", (30, 20)).save(tmp_path / "0.png")
    builder = TableBuilder(tmp_path, "train", "coco")
    builder.add_image("0.png", (20, 30))
    [batch] = next(iter(TrainBatches(builder.build(("a",)), settings_of(**EVERYTHING))))
    assert len(batch) == 2
    assert len(batch.boxes) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_named_without_a_traceback(table: Table, workers: int):
    table.path(3).write_bytes(b"not a picture")
    with pytest.raises(ImageError) as caught:
        first(6, TrainBatches(table, settings_of(workers=workers)))
    assert str(caught.value).startswith(f"{table.path(3)}: is not a picture of a known format")
    assert "\n" not in str(caught.value)


def test_a_picture_of_another_size_than_stated_is_named_with_both(table: Table):
    Image.new("RGB", (77, 55)).save(table.path(2))
    with pytest.raises(ImageError, match=r"2\.png: the picture is displayed as 77 x 55, the labels say 24 x 24"):
        first(6, TrainBatches(table, settings_of()))


def test_a_batch_that_cannot_be_split_evenly_is_refused(table: Table):
    with pytest.raises(
        ConfigError, match=r"train\.batch_size 6 .* 2 processes x train\.accumulate 2; .* multiple of 4"
    ):
        TrainBatches(table, settings_of(batch_size=6, accumulate=2), world=2)


def test_a_data_set_without_pictures_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="split 'train' has no pictures"):
        TrainBatches(TableBuilder(tmp_path, "train", "coco").build(("a",)), settings_of())


# Sizes that the labels do not state


def test_missing_sizes_are_read_from_the_pictures(tmp_path: Path):
    table = table_of(tmp_path, PICTURES, stated=False)
    found = with_sizes(table, 10**6)
    assert found.sizes.tolist() == [list(size) for size in PICTURES]
    assert found.sizes.is_shared()
    assert table.sizes.sum() == 0
    assert with_sizes(found, 10**6) is found
    assert len(first(1, TrainBatches(table, settings_of()))) == 1
    assert sum(len(batch) for batch in eval_batches(table, settings_of(), 4)) == 6


def test_a_picture_whose_size_cannot_be_read_is_named(tmp_path: Path):
    table = table_of(tmp_path, PICTURES, stated=False)
    table.path(4).unlink()
    with pytest.raises(ImageError, match=r"4\.png: cannot be read"):
        with_sizes(table, 10**6)


# Evaluation batches


@pytest.mark.parametrize("world", [1, 2, 5])
def test_evaluation_has_every_picture_once_over_all_processes(table: Table, world: int):
    rows = [
        row
        for rank in range(world)
        for batch in eval_batches(table, settings_of(**EVERYTHING), 2, rank, world)
        for row in batch.rows.tolist()
    ]
    assert sorted(rows) == list(range(6))


def test_evaluation_shows_pictures_as_they_are_batched_like_alone(table: Table):
    config = settings_of(**EVERYTHING)
    single = {int(batch.rows[0]): batch for batch in eval_batches(table, config, 1)}
    for batch in eval_batches(table, replace_workers(config, 1), 3):
        for image, row in enumerate(batch.rows.tolist()):
            assert torch.equal(batch.images[image], single[row].images[0])
            assert torch.equal(batch.objects_of(image).boxes, single[row].boxes)
            assert min(batch.sizes[image].tolist()) == 32


def replace_workers(config: Config, workers: int) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"workers": workers})})


def test_evaluation_begins_with_the_largest_shape(table: Table):
    areas = [batch.images[0].numel() for batch in eval_batches(table, settings_of(), 1)]
    assert areas == sorted(areas, reverse=True)


def test_evaluation_of_no_pictures_is_no_batches(tmp_path: Path):
    assert list(eval_batches(TableBuilder(tmp_path, "val", "coco").build(("a",)), settings_of(), 2)) == []


def test_evaluation_keeps_every_object(tmp_path: Path):
    Image.new("RGB", (30, 20)).save(tmp_path / "0.png")
    builder = TableBuilder(tmp_path, "val", "coco")
    builder.add_image("0.png", (20, 30))
    builder.add_object((3, 3, 3.5, 10), 0)
    [batch] = eval_batches(builder.build(("a",)), settings_of(), 2)
    assert batch.boxes.tolist() == [pytest.approx([4.8, 4.8, 5.6, 16])]


def test_the_table_is_not_changed_by_reading(table: Table):
    before = replace(table, boxes=table.boxes.clone())
    first(4, TrainBatches(table, settings_of(**EVERYTHING)))
    assert table.fingerprint() == before.fingerprint()

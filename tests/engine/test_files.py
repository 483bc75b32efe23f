import json
import logging
import tracemalloc
from pathlib import Path

import cv2
import pytest
from rectangles import detector, picture, save

from foveal.data.images import read_image
from foveal.engine import files
from foveal.engine.files import Summary, predict_files
from foveal.engine.tiles import detect_tiled
from foveal.errors import UsageError

RED = picture(64, 64, (0, (8, 8, 40, 40)))
WIDE = picture(64, 100, (1, (30, 10, 80, 50)))


def lines(summary: Summary) -> list[dict]:
    return [json.loads(line) for line in summary.table.read_text().splitlines()]


def test_a_folder_becomes_a_table_in_the_order_of_its_pictures(tmp_path):
    # Shapes alternate, so batches of one shape finish out of order.
    for number in range(7):
        save(tmp_path / f"in/{number}.png", WIDE if number % 3 else RED)
    summary = predict_files(detector(), [tmp_path / "in"], tmp_path / "out", batch_size=3)
    found = lines(summary)
    assert [Path(line["image"]).name for line in found] == [f"{number}.png" for number in range(7)]
    assert [line["detections"][0]["class"] for line in found] == ["red", "green", "green"] * 2 + ["red"]
    assert [line["width"] for line in found] == [64, 100, 100, 64, 100, 100, 64]
    assert (summary.pictures, summary.detections, summary.failed) == (7, 7, [])


def test_pictures_of_one_shape_go_through_the_network_together(tmp_path):
    for number in range(7):
        save(tmp_path / f"{number}.png", WIDE if number % 2 else RED)
    detect = detector()
    predict_files(detect, [tmp_path], tmp_path / "out", batch_size=2)
    assert [shape[0] for shape in detect.model.calls] == [2, 2, 2, 1]


def test_boxes_are_those_of_the_detector(tmp_path):
    path = save(tmp_path / "a.png", picture(300, 500, (2, (100, 40, 300, 200))))
    detect = detector()
    expected = detect(path)
    (line,) = lines(predict_files(detect, [path], tmp_path / "out"))
    assert line["detections"][0]["box"] == pytest.approx(expected.boxes[0].tolist(), abs=1e-3)
    assert line["detections"][0]["category_id"] == 30


def test_one_bad_picture_is_reported_and_passed_over(tmp_path, caplog):
    save(tmp_path / "in/a.png", RED)
    (tmp_path / "in/b.png").write_bytes(b"no picture at all")
    save(tmp_path / "in/c.png", RED)
    with caplog.at_level(logging.WARNING, "foveal"):
        summary = predict_files(detector(), [tmp_path / "in", tmp_path / "gone.png"], tmp_path / "out")
    assert [Path(line["image"]).name for line in lines(summary)] == ["a.png", "b.png", "c.png", "gone.png"]
    assert "error" in lines(summary)[1]
    assert [Path(name).name for name, _ in summary.failed] == ["b.png", "gone.png"]
    assert (summary.pictures, summary.num_failed) == (2, 2)
    assert "b.png" in caplog.text
    assert "2 inputs passed over" in str(summary)


def test_only_so_many_failures_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_NAMED_FAILURES", 3)
    summary = predict_files(detector(), ["-"], tmp_path / "out", stdin=(f"gone{number}.png" for number in range(9)))
    assert (len(summary.failed), summary.num_failed) == (3, 9)


def test_same_names_in_different_folders_keep_their_own_drawings(tmp_path):
    save(tmp_path / "one/a.png", RED)
    save(tmp_path / "two/a.png", WIDE)
    summary = predict_files(detector(), [tmp_path / "one/a.png", tmp_path / "two/a.png"], tmp_path / "out", draw=True)
    assert summary.drawn == tmp_path / "out/drawn"
    assert read_image(summary.drawn / "one/a.png").shape == (64, 64, 3)
    assert read_image(summary.drawn / "two/a.png").shape == (64, 100, 3)


def test_a_drawing_shows_the_box_on_the_whole_picture(tmp_path):
    save(tmp_path / "in/a.tif", picture(256, 256, (0, (32, 32, 160, 160))))
    predict_files(detector(), [tmp_path / "in"], tmp_path / "out", draw=True)
    drawn = read_image(tmp_path / "out/drawn/a.tif.jpg")
    assert drawn.shape == (256, 256, 3)
    yellow = (drawn[..., 0] > 180) & (drawn[..., 1] > 150) & (drawn[..., 2] < 90)
    assert yellow.sum() > 200
    assert not (tmp_path / "out/drawn").joinpath("a.tif.jpg.part").exists()


def test_nothing_is_drawn_unless_asked(tmp_path):
    save(tmp_path / "a.png", RED)
    assert predict_files(detector(), [tmp_path / "a.png"], tmp_path / "out").drawn is None
    assert not (tmp_path / "out/drawn").exists()


def test_drawings_of_an_earlier_run_are_not_looked_at(tmp_path):
    save(tmp_path / "a.png", RED)
    for _ in range(2):
        summary = predict_files(detector(), [tmp_path], tmp_path, draw=True)
        assert summary.pictures == 1


def test_a_video_becomes_named_frames_and_a_drawn_video(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (97, 64))
    for index in range(6):
        frame = picture(64, 97, (0, (8 + 4 * index, 8, 40 + 4 * index, 40)))
        writer.write(frame[:, :, ::-1])
    writer.release()
    summary = predict_files(detector(), [tmp_path / "clip.avi"], tmp_path / "out", draw=True, batch_size=4)
    found = lines(summary)
    assert [Path(line["image"]).name for line in found] == [f"clip.avi:{index}" for index in range(6)]
    lefts = [line["detections"][0]["box"][0] for line in found]
    assert lefts == pytest.approx([8 + 4 * index for index in range(6)], abs=1.5)
    drawn = cv2.VideoCapture(str(tmp_path / "out/drawn/clip.avi.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert int(drawn.get(cv2.CAP_PROP_FRAME_COUNT)) == 6
    there, frame = drawn.read()
    drawn.release()
    assert there
    _, green, red = frame[20, 5:8].astype(int).mean(axis=0)
    assert red > 120, "the line left of the box, in the colour of the class"
    assert green > 100


def test_two_videos_become_two_videos(tmp_path):
    for name in ("a.avi", "b.avi"):
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 64))
        for _ in range(3):
            writer.write(RED[:, :, ::-1])
        writer.release()
    predict_files(detector(), [tmp_path / "a.avi", tmp_path / "b.avi"], tmp_path / "out", draw=True)
    for name in ("a.avi.mp4", "b.avi.mp4"):
        capture = cv2.VideoCapture(str(tmp_path / "out/drawn" / name))
        assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
        capture.release()


def test_tiles_find_what_the_shrunken_picture_loses(tmp_path):
    image = picture(400, 600, *[(0, (x, y, x + 12, y + 12)) for x in range(10, 580, 97) for y in range(10, 380, 83)])
    path = save(tmp_path / "scene.png", image)
    detect = detector(size=100)
    whole = predict_files(detect, [path], tmp_path / "whole")
    tiles: list[tuple[int, int]] = []
    tiled = predict_files(
        detect, [path], tmp_path / "tiled", tile=100, overlap=0.2, draw=True, batch_size=5,
        tile_progress=lambda *counts: tiles.append(counts),
    )  # fmt: skip
    assert tiles[0] == (5, tiles[-1][1])
    assert tiles[-1][0] == tiles[-1][1] > 5
    assert whole.detections < 30
    assert tiled.detections == 30
    expected = detect_tiled(detect, path, 100, 0.2)
    assert [d["box"] for d in lines(tiled)[0]["detections"]] == [
        pytest.approx(box, abs=1e-3) for box in expected.boxes.tolist()
    ]
    assert (tmp_path / "tiled/drawn/scene.png").exists()


def test_a_picture_over_the_limit_is_passed_over_and_the_limit_can_be_raised(tmp_path):
    path = save(tmp_path / "a.png", RED)
    detect = detector(**{"data.max_pixels": 1000})
    assert predict_files(detect, [path], tmp_path / "out").num_failed == 1
    assert predict_files(detect, [path], tmp_path / "out", max_pixels=5000).pictures == 1


def test_progress_counts_every_input(tmp_path):
    save(tmp_path / "a.png", RED)
    seen = []
    predict_files(
        detector(), [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", progress=lambda *args: seen.append(args)
    )
    assert seen == [(1, 0), (2, 0)]


def test_memory_does_not_grow_with_the_number_of_inputs(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", picture(64, 64 + 40 * (number % 2), (0, (8, 8, 40, 40))))

    def peak(count: int) -> int:
        names = (str(tmp_path / f"{number % 5}.png") for number in range(count))
        tracemalloc.start()
        summary = predict_files(detector(), ["-"], tmp_path / "out", stdin=names, batch_size=2, draw=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert summary.pictures == count
        return most

    peak(20)
    few, many = peak(30), peak(150)
    # One picture and its drawing are 25 kB or more; what remains is caches of names and numbers.
    assert many - few < 120 * 1000


def test_misuse_is_told_before_anything_is_written(tmp_path):
    for options in ({"batch_size": 0}, {"tile": 5}, {"tile": 800, "overlap": 2.0}, {"min_score": 50}):
        with pytest.raises(UsageError):
            predict_files(detector(), ["a.png"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()

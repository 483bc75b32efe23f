import logging
import os
import re
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
from rectangles import picture, save

from foveal.engine.sources import Sources
from foveal.errors import ImageError, UsageError

LIMIT = 10**8
DOT = picture(32, 32, (0, (4, 4, 20, 20)))


def names(root: Path, *inputs: str, **options: object) -> list[str]:
    sources = Sources([str(root / text) if text != "-" else text for text in inputs], LIMIT, **options)
    return [os.path.relpath(source.name, root).replace(os.sep, "/") for source in sources]


def video(path: Path, frames: int, size: tuple[int, int] = (48, 32)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, size)
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 10 * index, dtype=np.uint8))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "sub/a.jpg", "sub/deep/c.bmp", ".hidden/x.png", "sub/.y.png"):
        save(tmp_path / name, DOT)
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_a_folder_is_searched_to_the_bottom_in_sorted_order_without_hidden_files(folder):
    assert names(folder, ".") == ["a.jpg", "b.png", "sub/a.jpg", "sub/deep/c.bmp"]


def test_inputs_come_in_the_order_in_which_they_are_given(folder):
    assert names(folder, "b.png", "sub/deep", "a.jpg") == ["b.png", "sub/deep/c.bmp", "a.jpg"]


def test_a_pattern_is_sorted_and_may_reach_into_folders(folder):
    assert names(folder, "*.jpg") == ["a.jpg"]
    assert names(folder, "**/*.jpg") == ["a.jpg", "sub/a.jpg"]
    assert names(folder, "[ab].*") == ["a.jpg", "b.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    save(tmp_path / "scan[1].png", DOT)
    assert names(tmp_path, "scan[1].png") == ["scan[1].png"]


def test_standard_input_lists_paths_one_a_line(folder):
    lines = [f"{folder / 'b.png'}\n", "\n", f"{folder / 'sub'}\r\n"]
    assert names(folder, "a.jpg", "-", stdin=lines) == ["a.jpg", "b.png", "sub/a.jpg", "sub/deep/c.bmp"]


def test_folders_to_leave_out_are_not_searched(folder):
    assert names(folder, ".", leave_out=[folder / "sub"]) == ["a.jpg", "b.png"]
    assert names(folder, "**/*.jpg", leave_out=[folder / "sub"]) == ["a.jpg"]


def test_nothing_is_read_before_its_turn(folder):
    def lines():
        yield str(folder / "a.jpg")
        raise AssertionError("the second line was asked for too early")

    sources = iter(Sources(["-"], LIMIT, lines()))
    assert next(sources).name == str(folder / "a.jpg")


def test_no_two_files_share_a_place_for_their_drawings(folder):
    def places(*inputs):
        return [source.where for source in Sources([str(folder / text) for text in inputs], LIMIT)]

    assert places("a.jpg", "sub/a.jpg") == [PurePath("a.jpg"), PurePath("sub/a.jpg")]
    assert places("sub/a.jpg") == [PurePath("a.jpg")]
    assert places("sub/a.jpg", "elsewhere/gone.jpg")[0] == PurePath("a.jpg"), "what does not exist does not count"
    assert places("sub", "a.jpg") == [PurePath("sub/a.jpg"), PurePath("sub/deep/c.bmp"), PurePath("a.jpg")]


def test_a_listed_file_outside_the_working_folder_keeps_its_whole_path(folder, monkeypatch):
    monkeypatch.chdir(folder / "sub")
    lines = ["a.jpg", "../a.jpg"]
    inside, outside = (source.where for source in Sources(["-"], LIMIT, lines))
    assert inside == PurePath("a.jpg")
    assert outside == PurePath("outside", *(folder / "a.jpg").parts[1:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("missing.png", "no such file"),
        ("*.webp", "no file matches this pattern"),
        ("empty", "holds no picture or video"),
    ],
)
def test_what_cannot_be_found_is_a_source_with_an_error(folder, text, words):
    (folder / "empty").mkdir()
    (source,) = Sources([str(folder / text)], LIMIT)
    assert source.name == str(folder / text)
    with pytest.raises(ImageError, match=words):
        source.read(LIMIT)


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "s3://pictures/a.jpg?part=[1]"])
def test_a_url_is_refused_with_the_reason(url):
    (source,) = Sources([url], LIMIT)
    with pytest.raises(ImageError, match=f"^{re.escape(url)}: is a URL, and pictures are not fetched, since"):
        source.read(LIMIT)


def test_no_inputs_are_misuse():
    with pytest.raises(UsageError, match="no inputs"):
        Sources([], LIMIT)


def test_a_video_gives_its_frames_in_order_by_number(tmp_path):
    path = video(tmp_path / "clip.avi", 5)
    sources = list(Sources([path], LIMIT))
    assert [source.name for source in sources] == [f"{path}:{index}" for index in range(5)]
    assert [source.index for source in sources] == [0, 1, 2, 3, 4]
    assert sources[0].fps == pytest.approx(10)
    frame = sources[3].read(LIMIT)
    assert frame.shape == (32, 48, 3)
    assert abs(float(frame.mean()) - 30) < 3


def test_frames_are_rgb(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (48, 32))
    writer.write(np.full((32, 48, 3), (0, 0, 255), dtype=np.uint8))
    writer.release()
    (source,) = Sources([tmp_path / "red.avi"], LIMIT)
    red, green, blue = source.read(LIMIT).mean(axis=(0, 1))
    assert red > 230
    assert max(green, blue) < 25


def test_a_damaged_video_is_an_error_that_names_it(tmp_path):
    (tmp_path / "clip.avi").write_bytes(b"RIFF, but nothing more")
    (source,) = Sources([tmp_path / "clip.avi"], LIMIT)
    with pytest.raises(ImageError, match=r"clip\.avi: no frame of the video can be decoded"):
        source.read(LIMIT)


def test_a_video_that_is_cut_off_gives_what_it_has_and_a_warning(tmp_path, caplog):
    whole = video(tmp_path / "whole.avi", 20).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 4 // 5])
    with caplog.at_level(logging.WARNING, "foveal"):
        sources = list(Sources([tmp_path / "cut.avi"], LIMIT))
    assert 0 < len(sources) < 20
    assert "cut.avi: only" in caplog.text


def test_a_video_with_frames_over_the_limit_is_refused(tmp_path):
    (source,) = Sources([video(tmp_path / "clip.avi", 3)], max_pixels=1000)
    with pytest.raises(ImageError, match=r"1536 pixels, more than data\.max_pixels 1000"):
        source.read(1000)

"""Pictures of every kind, sound and damaged, are read alike; the one resize."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from foveal.data.images import (
    check_image,
    decode_image,
    from_pillow,
    image_size,
    padded_shape,
    read_image,
    resize,
    target_size,
)
from foveal.errors import ImageError

ORIENTATION = 0x0112


def quarters(width: int = 48, height: int = 32) -> np.ndarray:
    """Four colours, one a quarter, so that every flip and turn shows."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (0, 0, 255)
    image[height // 2 :, width // 2 :] = (255, 255, 0)
    return image


def encoded(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format, **options)
    return buffer.getvalue()


def one_pixel(image: Image.Image, format: str = "PNG", **options: object) -> list[int]:
    """The colour that the upper left pixel of the encoded picture has."""
    return decode_image(encoded(image, format, **options), "test").tolist()[0][0]


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header_only(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_whatever_its_exif_orientation(tmp_path: Path, format: str, orientation: int):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 100} if format in ("JPEG", "WEBP") else {}
    path = tmp_path / "picture"
    path.write_bytes(encoded(quarters(), format, exif=exif, **options))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    found = read_image(path)
    assert found.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    assert np.abs(found - expected).max() <= 4
    assert image_size(path) == found.shape[:2]


def test_a_png_may_state_its_orientation_behind_its_pixels(tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = io.BytesIO()
    Image.fromarray(quarters()).save(turned, "PNG", exif=exif)
    data = turned.getvalue()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    path = tmp_path / "late.png"
    path.write_bytes(data.replace(chunk, b"")[:-12] + chunk + data[-12:])
    assert image_size(path) == read_image(path).shape[:2] == (48, 32)


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path: Path):
    whole = io.BytesIO()
    Image.effect_noise((320, 240), 50).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    assert image_size(tmp_path / "cut.png") == (240, 320)


def test_orientation_6_means_the_stored_top_is_on_the_right():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    found = decode_image(encoded(quarters(), "PNG", exif=exif), "test")
    assert found[0, 0].tolist() == [0, 0, 255]
    assert found[0, -1].tolist() == [255, 0, 0]


def test_a_senseless_orientation_is_none():
    exif = Image.Exif()
    exif[ORIENTATION] = 77
    assert decode_image(encoded(quarters(), "PNG", exif=exif), "test").shape == (32, 48, 3)


GREYS = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(GREYS, "PNG"), id="png"),
        pytest.param(encoded(GREYS, "TIFF"), id="tiff"),
        pytest.param(encoded(Image.fromarray(GREYS.astype(">u2")), "TIFF"), id="big_endian_tiff"),
        pytest.param(encoded(GREYS, "TIFF", compression="tiff_lzw"), id="lzw_tiff"),
        pytest.param(b"P5\n6 1\n65535\n" + GREYS.astype(">u2").tobytes(), id="pgm"),
    ],
)
def test_16_bit_grey_is_scaled_and_not_saturated(data: bytes):
    assert decode_image(data, "test").tolist() == [[[value] * 3 for value in (0, 0, 1, 1, 128, 255)]]


def test_a_1_bit_picture_is_black_and_white():
    assert decode_image(encoded(Image.fromarray(np.array([[False, True]])), "PNG"), "test").tolist() == [
        [[0, 0, 0], [255, 255, 255]]
    ]


def test_transparency_lies_over_white():
    assert one_pixel(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == [255, 255, 255]
    assert one_pixel(Image.new("RGBA", (2, 2), (0, 0, 0, 128))) == [127, 127, 127]
    assert one_pixel(Image.new("RGBA", (2, 2), (10, 20, 30, 255))) == [10, 20, 30]
    assert one_pixel(Image.new("LA", (2, 2), (100, 0))) == [255, 255, 255]


def test_a_palette_with_transparency_lies_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putdata([0, 1])
    assert decode_image(encoded(image, "PNG"), "test").tolist() == [[[10, 20, 30], [200, 0, 0]]]
    assert decode_image(encoded(image, "PNG", transparency=1), "test").tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert decode_image(encoded(image, "PNG", transparency=b"\xff\x00"), "test").tolist()[0][1] == [255, 255, 255]


def test_a_transparent_colour_lies_over_white():
    assert one_pixel(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3)) == [255, 255, 255]
    assert one_pixel(Image.new("L", (2, 2), 7), transparency=7) == [255, 255, 255]


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(format: str):
    found = one_pixel(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format)
    assert np.abs(np.array(found) - (255, 0, 0)).max() <= 2


def test_a_grey_jpeg_has_three_equal_channels():
    found = decode_image(encoded(Image.new("L", (16, 16), 77), "JPEG"), "test")
    assert found.shape == (16, 16, 3)
    assert (found == 77).all()


@pytest.mark.parametrize("format", ["MPO", "GIF", "TIFF"])
def test_the_first_of_several_pictures_is_taken(format: str):
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    found = one_pixel(red, format, save_all=True, append_images=[blue])
    assert np.abs(np.array(found) - (255, 0, 0)).max() <= 2


def test_an_rgb_jpeg_agrees_with_pillow():
    data = encoded(resize(noise(0, 8, 8), (100, 120)), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image).astype(int)
    assert np.abs(decode_image(data, "test") - expected).max() <= 2


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_of_unknown_range_are_refused(mode: str):
    with pytest.raises(ImageError, match=r"^scan\.tif: holds (float|32-bit) values.*; save it as"):
        decode_image(encoded(Image.new(mode, (4, 4), -5), "TIFF"), "scan.tif")


def test_a_picture_of_unknown_range_from_pillow_is_refused():
    with pytest.raises(ImageError, match="mode F"):
        from_pillow(Image.new("F", (4, 4)))


def test_the_pixel_limit_is_checked_before_anything_is_decoded():
    with pytest.raises(ImageError, match=r"^big\.png: 20000 x 10000 is 200000000 .* data\.max_pixels 100000000"):
        decode_image(png_header_only(20000, 10000), "big.png")
    with pytest.raises(ImageError, match=r"cut off"):
        decode_image(png_header_only(200, 100), "big.png")


def test_the_header_alone_is_held_against_the_limit(tmp_path: Path):
    (tmp_path / "big.png").write_bytes(png_header_only(20000, 10000))
    with pytest.raises(ImageError, match=r"data\.max_pixels"):
        image_size(tmp_path / "big.png", 1000)
    assert image_size(tmp_path / "big.png", 10**9) == (10000, 20000)


def test_a_picture_of_exactly_the_limit_is_read():
    data = encoded(quarters(), "PNG")
    assert decode_image(data, "test", 48 * 32).shape == (32, 48, 3)
    with pytest.raises(ImageError, match="48 x 32"):
        decode_image(data, "test", 48 * 32 - 1)


def test_the_limit_of_pillow_neither_warns_nor_refuses_nor_changes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_image(encoded(quarters(), "PNG"), "test").shape == (32, 48, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


JPEG = encoded(noise(1, 64, 64), "JPEG", quality=80)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, len(JPEG) - 1))
def test_a_jpeg_cut_off_anywhere_is_an_error(length: int):
    with pytest.raises(ImageError, match=r"^cut\.jpg: "):
        decode_image(JPEG[:length], "cut.jpg")


def test_a_cut_off_jpeg_with_a_whole_thumbnail_is_an_error():
    thumbnail = encoded(noise(2, 8, 8), "JPEG")
    segment = b"Exif\0\0" + thumbnail
    whole = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + JPEG[2:]
    assert decode_image(whole, "test").shape == (64, 64, 3)
    with pytest.raises(ImageError, match="cut off"):
        decode_image(whole[:-100], "test")


def test_a_progressive_jpeg_and_one_with_bytes_after_its_end_are_whole():
    data = encoded(quarters(), "JPEG", progressive=True)
    assert decode_image(data, "test").shape == (32, 48, 3)
    assert decode_image(data + b"\0" * 100, "test").shape == (32, 48, 3)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP"])
def test_other_cut_off_pictures_are_errors(format: str):
    data = encoded(noise(3, 64, 64), format)
    with pytest.raises(ImageError, match=r"^half: .*; replace it or leave it out$"):
        decode_image(data[: len(data) // 2], "half")


@settings(max_examples=100, deadline=None)
@given(
    st.binary(min_size=1, max_size=64), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"])
)
def test_bytes_that_are_no_picture_are_an_error(rest: bytes, start: bytes):
    with pytest.raises(ImageError, match=r"^rubbish: "):
        decode_image(start + rest, "rubbish")


def test_an_empty_file_a_missing_one_and_a_folder_are_told_apart(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"empty\.jpg: is empty"):
            read(tmp_path / "empty.jpg")
        with pytest.raises(ImageError, match=r"none\.jpg: cannot be read \(No such file"):
            read(tmp_path / "none.jpg")
        with pytest.raises(ImageError, match=r"cannot be read \(Is a directory"):
            read(tmp_path)


def test_formats_that_start_other_programs_are_not_opened():
    with pytest.raises(ImageError, match="known format"):
        decode_image(encoded(quarters(), "EPS"), "test")


def test_a_sound_picture_has_no_problem(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(quarters(), "PNG"))
    assert check_image(path) is None
    assert check_image(path, (32, 48)) is None


def test_a_wrong_size_is_a_problem_that_says_whether_sides_are_swapped(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(quarters(), "PNG"))
    swapped, other = check_image(path, (48, 32)), check_image(path, (10, 20))
    assert swapped is not None
    assert (swapped.field, swapped.value) == ("size", "32 x 48")
    assert "EXIF" in swapped.problem
    assert other is not None
    assert str(other) == (
        f"{path}: size 20 x 10: but the picture has 48 x 32; correct the size, or restore the labelled picture"
    )


def test_a_cut_off_picture_is_a_problem_with_file_cause_and_fix(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG[:-50])
    problem = check_image(path)
    assert problem is not None
    assert problem.file == str(path)
    assert problem.problem.startswith("is damaged or cut off (")
    assert problem.fix == "replace it or leave it out"


@settings(max_examples=40, deadline=None)
@given(*[st.integers(1, 90)] * 4)
def test_the_resize_is_pillows_antialiased_bilinear_within_1(height: int, width: int, new_height: int, new_width: int):
    image = noise(height * 100 + width, height, width)
    found = resize(image, (new_height, new_width))
    expected = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    assert found.shape == (new_height, new_width, 3)
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_halving_weighs_four_neighbours():
    # Antialiased by 2: the filter is a triangle 4 wide, weights 1/8 3/8 3/8 1/8 inside, 3/7 3/7 1/7 at an end.
    row = np.array([0, 0, 0, 160, 160, 160, 0, 0], dtype=np.uint8)
    found = resize(np.repeat(row[None, :, None], 3, axis=2), (1, 4))
    assert found[0, :, 0].tolist() == [0, 80, 140, 23]


def test_a_picture_of_the_wanted_size_stays_as_it_is():
    image = noise(0, 5, 7)
    assert resize(image, (5, 7)) is image


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((480, 640), (600, 800), id="shorter_side"),
        pytest.param((640, 480), (800, 600), id="upright"),
        pytest.param((300, 900), (333, 1000), id="longer_side_limits"),
        pytest.param((600, 1000), (600, 1000), id="already_there"),
        pytest.param((1, 100_000), (1, 1000), id="never_zero"),
    ],
)
def test_target_sizes_by_hand(size: tuple[int, int], expected: tuple[int, int]):
    assert target_size(size, 600, 1000) == expected


@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(16, 1333), st.integers(0, 1000))
def test_target_sizes_keep_within_both_limits(height: int, width: int, shorter: int, more: int):
    target = target_size((height, width), shorter, shorter + more)
    assert min(target) == shorter or max(target) == shorter + more
    assert min(target) <= shorter
    assert max(target) <= shorter + more


def test_padded_sides_are_multiples():
    assert padded_shape((600, 801), 32) == (608, 832)
    assert padded_shape((64, 32), 32) == (64, 32)
    assert padded_shape((7, 9), 1) == (7, 9)

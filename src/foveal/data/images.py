"""Bytes to RGB uint8, upright and complete, or an error that names the file; and the one resize.

Every format goes through the same steps: the header is read, its pixels are held against the limit, the picture is
decoded (JPEG by OpenCV, everything else by Pillow), brought to 8-bit RGB and turned as its EXIF orientation says.
Sizes are (height, width) in pixels, as the picture is displayed.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn import functional

from foveal.data.table import Problem
from foveal.errors import ImageError

MAX_PIXELS = 100_000_000

# Not every format of Pillow's: some start other programs (EPS), some are not pictures.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")

_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_pillow_limit = threading.Lock()


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture in a file as [H, W, 3] uint8 RGB, upright; raises ImageError where there is none."""
    if reason := url_refused(path):
        raise ImageError(reason)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    return decode_image(data, str(path), max_pixels)


def url_refused(path: str | Path) -> str:
    """Why a URL in the place of a path is not opened; empty for a path."""
    # One slash is enough: a URL that became a Path has lost the other. A drive has one letter.
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) or os.path.lexists(path):
        return ""
    url = re.sub(r"^([^/]+:)/(?=[^/])", r"\1//", str(path))
    return (
        f"{url}: is a URL, and pictures are not fetched, since what lies there may change or be "
        "anything; download it and give the file"
    )


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture in `data` as [H, W, 3] uint8 RGB, upright; `name` is what errors call it.

    16-bit grey is divided by 257, transparency is laid over white, of several frames the first is taken.
    """
    if not data:
        raise ImageError(f"{name}: is empty; replace it or leave it out")
    with _open(io.BytesIO(data), name, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and _jpeg_is_complete(data):
            pixels = _decode_jpeg(data)
            if pixels is not None:
                return _upright(pixels, _orientation(image))
        try:
            image.load()
            pixels = _rgb(image)
        except _UnknownRangeError as error:
            raise ImageError(f"{name}: {error}; save it as 8-bit or 16-bit PNG") from None
        except Exception as error:  # Pillow's plugins raise whatever the damaged bytes lead to
            raise ImageError(f"{name}: is damaged or cut off ({error}); replace it or leave it out") from None
        return _upright(pixels, _orientation(image))


def from_pillow(image: Image.Image) -> np.ndarray:
    """A Pillow picture of any mode as [H, W, 3] uint8 RGB, upright."""
    try:
        return _upright(_rgb(image), _orientation(image))
    except _UnknownRangeError as error:
        raise ImageError(f"a Pillow image of mode {image.mode} {error}; convert it to RGB") from None


def image_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) as displayed, from the header alone; raises ImageError where there is no picture."""
    try:
        with open(path, "rb") as file:
            if not file.peek(1):
                raise ImageError(f"{path}: is empty; replace it or leave it out")
            with _open(file, str(path), max_pixels) as image:
                if image.format == "PNG" and not _png_may_be_turned(file):
                    return image.height, image.width
                return _displayed_size(image)
    except OSError as error:
        raise _unreadable(path, error) from None


def check_image(
    path: str | Path, stated: tuple[int, int] = (0, 0), max_pixels: int = MAX_PIXELS, name: str = ""
) -> Problem | None:
    """What is wrong with a picture file, or None; decodes it whole, since a cut-off file has a sound header.

    stated: the (height, width) that the labels claim; zeros where they do not say. name: what to call the file.
    """
    name = name or str(path)
    try:
        height, width = read_image(path, max_pixels).shape[:2]
    except ImageError as error:
        problem, _, fix = str(error).removeprefix(f"{path}: ").rpartition("; ")
        return Problem(name, "", "", "", problem, fix)
    if stated in ((0, 0), (height, width)):
        return None
    if stated == (width, height):
        problem = f"but the picture is displayed as {width} x {height}, turned by its EXIF orientation or its labels"
        fix = "correct the size and the boxes to the displayed picture, or remove the orientation from the file"
    else:
        problem, fix = f"but the picture has {width} x {height}", "correct the size, or restore the labelled picture"
    return Problem(name, "", "size", f"{stated[1]} x {stated[0]}", problem, fix)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8 to [h, w, 3] uint8, bilinear with antialiasing: the only resize there is."""
    if image.shape[:2] == size:
        return image
    # A permuted view is channels_last to torch: its vectorised path.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def target_size(size: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """(height, width) after resizing to `shorter` on the shorter side, or `longest` on the longer if that is less.

    (480, 640) with 600 and 1000 becomes (600, 800); (300, 900) becomes (333, 1000).
    """
    height, width = target_sizes(np.array([size]), shorter, longest)[0].tolist()
    return height, width


def target_sizes(sizes_I2: np.ndarray, shorter: int, longest: int) -> np.ndarray:
    """`target_size` of many pictures at once: [I, 2] to [I, 2] int64."""
    sizes_I2 = sizes_I2.astype(np.float64)
    scale_I = np.minimum(shorter / sizes_I2.min(axis=1), longest / sizes_I2.max(axis=1))
    return np.maximum(np.floor(sizes_I2 * scale_I[:, None] + 0.5), 1).astype(np.int64)


def padded_shape(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Both sides rounded up to a multiple: (600, 801) with 32 becomes (608, 832)."""
    height, width = size
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


class _UnknownRangeError(Exception):
    """The pixels are whole but have no certain meaning as 8-bit RGB."""


def _unreadable(path: str | Path, error: OSError) -> ImageError:
    return ImageError(
        f"{path}: cannot be read ({error.strerror or error}); check path and permissions, or leave it out"
    )


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _own_pixel_limit() -> Iterator[None]:
    """Silences Pillow's global limit, which warns and refuses at numbers other than ours."""
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open(source: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """The picture's header, its pixels not yet decoded and not more than `max_pixels`."""
    try:
        with _own_pixel_limit():
            image = Image.open(source, formats=_formats())
    except UnidentifiedImageError:
        known = ", ".join(_formats())
        raise ImageError(f"{name}: is not a picture of a known format ({known}); convert it or leave it out") from None
    except Exception as error:  # Pillow's plugins raise whatever the damaged bytes lead to
        raise ImageError(f"{name}: has a damaged header ({error}); replace it or leave it out") from None
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} is {width * height} pixels, more than data.max_pixels {max_pixels}; "
            "raise data.max_pixels or make the picture smaller"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 .. 8 that is still to be applied; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the picture unusable
        return 1
    return value if value in range(1, 9) else 1


def _png_may_be_turned(file: BinaryIO) -> bool:
    """Whether any chunk of a PNG can hold an orientation; Pillow would decode all pixels to look behind them."""
    position = file.tell()
    file.seek(8)
    found = False
    while not found and len(head := file.read(8)) == 8:
        start = file.read(32) if head[4:] in (b"tEXt", b"zTXt", b"iTXt") else b""
        found = head[4:] == b"eXIf" or start.startswith((b"Raw profile type", b"XML:com.adobe.xmp"))
        file.seek(int.from_bytes(head[:4], "big") + 4 - len(start), io.SEEK_CUR)
    file.seek(position)
    return found


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    if image.format == "TIFF":  # newer versions of Pillow have turned `size` already, older ones have not
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    return (width, height) if _orientation(image) >= 5 else (height, width)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation; [H, W, 3] in, contiguous and writable."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.require(pixels, requirements=["C", "W"])  # Pillow lends arrays that torch warns of


def _jpeg_is_complete(data: bytes) -> bool:
    """Whether an end-of-image marker follows the start of the scan.

    Inside a scan 0xFF is always followed by 0 or a restart marker, so 0xFFD9 there is the end and nothing else; in
    the segments before it (an EXIF thumbnail) it may be anything. OpenCV paints what is missing grey and says nothing.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """OpenCV's answer, or None where it has none and Pillow shall say why."""
    try:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        return None


def _rgb(image: Image.Image) -> np.ndarray:
    """A loaded picture of any mode as [H, W, 3] uint8."""
    if image.mode == "F":
        raise _UnknownRangeError("holds float values, and which of them are black and white is not known")
    if image.mode.startswith("I"):
        grey_HW = np.asarray(image).astype(np.int64)
        if grey_HW.min() < 0 or grey_HW.max() > 65535:
            raise _UnknownRangeError("holds 32-bit values, and which of them are black and white is not known")
        grey_HW = (grey_HW + 128) // 257  # v / 257, rounded: 65535 is 255
        return np.repeat(grey_HW.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # convert would copy

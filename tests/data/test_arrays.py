import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.arrays import to_array
from foveal.errors import ImageError

LIMIT = 10**6


def test_arrays_tensors_and_pillow_images_agree():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for picture in (pixels, torch.from_numpy(pixels).permute(2, 0, 1), Image.fromarray(pixels)):
        np.testing.assert_array_equal(to_array(picture, LIMIT), pixels)


def test_a_grey_array_has_three_equal_channels():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (to_array(grey, LIMIT) == grey[:, :, None]).all()


def test_a_pillow_image_is_turned_upright_and_laid_over_white():
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    array = to_array(image, LIMIT)
    assert array.shape == (4, 2, 3)
    assert (array == 255).all()


def test_a_pillow_image_of_floats_is_refused():
    with pytest.raises(ImageError, match="mode F"):
        to_array(Image.new("F", (4, 2)), LIMIT)


def test_a_path_over_the_limit_is_refused(tmp_path):
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="4800 pixels"):
        to_array(tmp_path / "a.png", 1000)


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "file:///tmp/a.jpg", "HTTP://x/a"])
def test_a_url_is_refused_with_the_reason(url):
    with pytest.raises(ImageError, match=f"^{url}: is a URL, and pictures are not fetched, since .*; download it"):
        to_array(url, LIMIT)


def test_a_path_with_a_colon_is_no_url(tmp_path, monkeypatch):
    (tmp_path / "scan:").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "scan:" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert to_array("scan:/a.png", LIMIT).shape == (3, 4, 3)

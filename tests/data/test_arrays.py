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

import io

import numpy as np
import pytest
from PIL import Image

from side_ray.sources.reading.pixels import Transform, Unusable
from tests.formats import encoded, pictures

RGB = pictures(1)[0]
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_plain_images_come_out_as_they_are():
    assert np.array_equal(Transform()(encoded(RGB)), RGB)
    assert np.array_equal(Transform()(RGB), RGB)
    assert np.array_equal(Transform(grayscale=True)(encoded(GRAY))[:, :, 0], GRAY)
    assert np.array_equal(Transform()(encoded(GRAY)), np.repeat(GRAY[:, :, None], 3, axis=2))


def test_sixteen_bits_become_eight_by_value():
    deep = (GRAY.astype(np.uint16) * 257).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(Transform(grayscale=True)(encoded(deep, kind))[:, :, 0], GRAY)


def test_cmyk_and_palette_become_rgb():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(Transform()(saved(cmyk, "JPEG", quality=100)).astype(int) - [255, 0, 0]).max() < 12
    palette = Image.fromarray(RGB).quantize(256)
    assert np.array_equal(Transform()(saved(palette, "PNG")), np.asarray(palette.convert("RGB")))
    assert set(Transform(grayscale=True)(saved(Image.new("1", (4, 4), 1), "PNG")).ravel()) == {255}


def test_exif_orientation_is_followed():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :8] = 255
    turned = Transform()(encoded(wide, "JPEG", exif=exif, quality=95))
    assert turned.shape == (16, 8, 3)
    assert turned[:4].min() > 200
    assert turned[-4:].max() < 50


def test_opaque_alpha_is_dropped_and_transparency_refused():
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    assert np.array_equal(Transform()(encoded(opaque)), RGB)
    opaque[3, 3, 3] = 254
    with pytest.raises(Unusable, match="transparent pixels; flatten it"):
        Transform()(encoded(opaque))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"<svg></svg>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(RGB)[:-600], "damaged"),
        (encoded(RGB, "JPEG")[:300], "damaged"),
        (encoded(GRAY.astype(np.float32), "TIFF"), "floating-point pixels"),
        (encoded(GRAY.astype(np.int32) * 2**20, "TIFF"), "more than 16 bits"),
        (saved(Image.fromarray(RGB), "GIF", save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "2 frames"),
    ],
)
def test_what_cannot_be_used_says_why(content, reason):
    with pytest.raises(Unusable, match=reason):
        Transform()(content)


def test_crop_then_resize_keep_the_middle():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 200
    assert np.array_equal(Transform(crop=20)(image), np.full((20, 20, 3), 200))
    assert np.array_equal(Transform(crop=20, size=10)(image), np.full((10, 10, 3), 200))
    assert Transform(size=8)(image).shape == (8, 8, 3)
    with pytest.raises(Unusable, match=r"60×40 pixels are less than data\.crop \(50\)"):
        Transform(crop=50)(image)


def test_resizing_averages_instead_of_skipping():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(Transform(size=8)(stripes).astype(int) - 127).max() < 20

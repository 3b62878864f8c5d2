import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from side_ray.sources.reading.pixels import Transform, Unusable, is_turned
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
    for kind in ("JPEG", "PNG", "WEBP"):
        content = encoded(wide, kind, exif=exif)
        assert is_turned(content)
        assert Transform()(content).shape == (16, 8, 3)
        assert Transform(upright=False)(content).shape == (8, 16, 3)
        assert not is_turned(encoded(wide, kind))
    assert not is_turned(b"no image")
    assert not is_turned(wide)
    assert Transform(upright=False).settings() == Transform().settings() | {"upright": False}


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


@pytest.mark.parametrize(("dtype", "kind"), [(np.uint16, "TIFF"), (np.int32, "TIFF"), (np.uint16, "PNG")])
def test_values_of_an_unknown_range_never_come_out_black(dtype, kind):
    content = encoded(GRAY.astype(dtype), kind)
    with pytest.raises(
        Unusable, match=r"16-bit values of at most \d+, so their range is not known; give data.value_range"
    ):
        Transform()(content)
    assert np.array_equal(Transform(grayscale=True, value_range=(0, 255))(content)[:, :, 0], GRAY)
    assert Transform(value_range=(0, 255))(encoded(np.zeros((4, 4), dtype), kind)).max() == 0
    with pytest.raises(Unusable, match="outside data"):
        Transform(value_range=(0, 100))(content)


def test_a_given_range_is_scaled_to_a_byte():
    twelve = np.round(GRAY.astype(np.float64) * 4095 / 255)
    for content in (encoded(twelve.astype(np.uint16)), encoded(twelve.astype(np.float32), "TIFF"), twelve):
        deep = Transform(grayscale=True, value_range=(0, 4095))(content)[:, :, 0]
        assert deep.dtype == np.uint16
        assert np.array_equal(np.round(deep * (4095 / 65535)), twelve)
        assert np.array_equal(Transform(value_range=(0, 4095))(content), np.repeat(GRAY[:, :, None], 3, axis=2))
    with pytest.raises(Unusable, match="NaN"):
        Transform(value_range=(0, 1))(np.full((4, 4), np.nan))
    assert np.array_equal(Transform(value_range=(0, 4095))(encoded(RGB)), RGB)


def test_sixteen_bit_colour_whose_high_bytes_are_empty_is_refused():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RGB)
    head = struct.pack(">IIBBBBB", RGB.shape[1], RGB.shape[0], 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(Unusable, match="only the high bytes"):
        Transform(value_range=(0, 255))(png)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("where", [0.3, 0.5, 0.9])
def test_jpegs_that_were_cut_and_end_in_an_end_mark_are_named(progressive, where):
    content = encoded(pictures(1, (96, 96), seed=3)[0], "JPEG", quality=90, progressive=progressive)
    assert Transform()(content).shape == (96, 96, 3)
    cut = content[: int(len(content) * where)] + b"\xff\xd9"
    with pytest.raises(Unusable, match="damaged"):
        Transform()(cut)


def test_jpegs_overwritten_with_zeros_are_named_and_flat_ones_are_not():
    noise = np.kron(np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    content = bytearray(encoded(noise, "JPEG", quality=90))
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    with pytest.raises(Unusable, match="damaged"):
        Transform()(bytes(content))
    for value in (0, 127, 128, 255):
        for options in ({}, {"optimize": True}, {"progressive": True}):
            flat = np.full((256, 256, 3), value, np.uint8)
            assert np.abs(Transform()(encoded(flat, "JPEG", **options)).astype(int) - value).max() < 3


def test_damaged_metadata_of_a_png_cost_no_pixels():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    png = encoded(RGB)
    for extra in (
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"n" * (2 << 20))),
        chunk(b"eXIf", b"\0\x08\0\2\x01\x12\0\3"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n   4\nzzzz\n")),
        chunk(b"iCCP", b"p\0\0" + zlib.compress(b"q" * (2 << 20))),
    ):
        assert np.array_equal(Transform()(png[:33] + extra + png[33:]), RGB)


def test_images_over_the_limit_are_refused_before_they_are_decoded(monkeypatch):
    """PNGs of one pixel whose headers say that they are larger."""
    monkeypatch.setattr(Image.Image, "convert", None)
    for kind, size in (("1", (13000, 13000)), ("I;16", (6000, 6000)), ("L", (20000, 20000))):
        content = saved(Image.new(kind, (1, 1)), "PNG")
        header = content[12:16] + struct.pack(">II", *size) + content[24:29]
        content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        with pytest.raises(Unusable, match=r"are too many|is too large"):
            Transform()(content)

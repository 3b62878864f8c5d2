import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from side_ray.images import IMAGE_TYPE, decode_column, decode_png, encode_png, image_column, to_float, to_uint8


@given(st.sampled_from([1, 3, 4]), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_png_is_lossless(channels, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    assert np.array_equal(decode_png(encode_png(image)), image)


def test_every_byte_survives_the_float_range():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_float(image)
    assert x.shape == (1, 1, 16, 16)
    assert x.min() == -1
    assert x.max() == 1
    assert np.array_equal(to_uint8(x), image)


def test_values_outside_the_range_are_clipped():
    assert to_uint8(torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1)).ravel().tolist() == [0, 255]


def test_column_is_huggingface_layout_and_round_trips():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    column = image_column(images)
    assert column.type == IMAGE_TYPE
    assert np.array_equal(decode_column(column), images)
    assert np.array_equal(decode_column(pa.chunked_array([column.slice(0, 2), column.slice(2)])), images)


def test_mixed_shapes_are_refused():
    column = image_column([np.zeros((2, 2, 1), np.uint8), np.zeros((3, 2, 1), np.uint8)])
    with pytest.raises(ValueError, match="differ in shape"):
        decode_column(column)


@pytest.mark.parametrize("data", [b"", b"no image", encode_png(np.zeros((64, 64, 3), np.uint8))[:40]])
def test_broken_bytes_are_refused(data):
    with pytest.raises(ValueError, match="not a readable image"):
        decode_png(data)


def test_sixteen_bits_of_gray_are_kept():
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4, 1) * 4369 + 7
    read = decode_png(encode_png(deep))
    assert read.dtype == np.float32
    assert np.array_equal(np.rint(read * 257), deep)
    assert encode_png(read) == encode_png(deep)
    mixed = decode_column(image_column([deep, np.full((4, 4, 1), 3, np.uint8)]))
    assert mixed.dtype == np.float32
    assert (mixed[1] == 3).all()

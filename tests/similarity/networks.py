"""Writes a small ONNX image encoder whose weights may lie in another file, without the package onnx."""

import numpy as np

VECTOR = 8
FLOAT = 1


def weights() -> np.ndarray:
    """float32 [3, 8]: the network multiplies the mean of each channel with it."""
    return np.random.default_rng(0).normal(size=(3, VECTOR)).astype(np.float32)


def onnx_model(external: str | None = None) -> bytes:
    """The encoder as ONNX.

    Args:
        external: the file that holds `weights().tobytes()`; None = the model itself does.
    """
    tensor = number(1, 3) + number(1, VECTOR) + number(2, FLOAT) + text(8, "w")
    if external is None:
        tensor += field(9, weights().tobytes())
    else:
        entries = {"location": external, "offset": "0", "length": str(weights().nbytes)}
        tensor += b"".join(field(13, text(1, key) + text(2, value)) for key, value in entries.items()) + number(14, 1)
    nodes = (("GlobalAveragePool", "x", "p"), ("Flatten", "p", "f"), ("MatMul", "f w", "y"))
    graph = b"".join(
        field(1, b"".join(text(1, each) for each in given.split()) + text(2, made) + text(4, kind))
        for kind, given, made in nodes
    )
    graph += text(2, "g") + field(5, tensor)
    graph += field(11, value_info("x", ["n", 3, "h", "w"])) + field(12, value_info("y", ["n", VECTOR]))
    return number(1, 8) + field(7, graph) + field(8, text(1, "") + number(2, 13))


def value_info(name: str, shape: list[str | int]) -> bytes:
    sides = b"".join(field(1, number(1, side) if isinstance(side, int) else text(2, side)) for side in shape)
    return text(1, name) + field(2, field(1, number(1, FLOAT) + field(2, sides)))


def field(tag: int, content: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(content)) + content


def text(tag: int, content: str) -> bytes:
    return field(tag, content.encode())


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

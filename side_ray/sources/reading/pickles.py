"""Reads the pickles of CIFAR's Python batches without executing code."""

import pickle
from typing import Any, BinaryIO

import numpy as np


class Refused(Exception):
    """A pickle holds more than plain values and arrays of bytes."""


class _Dtype:
    """Replaces numpy.dtype; only unsigned bytes are allowed."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("u1", b"u1", "|u1", b"|u1", "uint8"):
            raise Refused(f"it holds an array of type {code!r}, not of bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment do not apply to single bytes."""


class _Array:
    """Replaces numpy.ndarray while a pickle is read."""

    def __init__(self) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise Refused("it holds an array of something other than bytes")
        # The original batches are Fortran-ordered views of [3072, 10000].
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise Refused("it rebuilds something other than an array")
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data)))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Python 3 pickles bytes like this in protocol 2."""
    if encoding not in ("latin1", b"latin1") or not isinstance(text, str):
        raise Refused("it encodes something other than bytes")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    **dict.fromkeys([(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")], _reconstruct),
    **dict.fromkeys([(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")], _frombuffer),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise Refused(f"it names {module}.{name}, which no data batch does")
        return _ALLOWED[module, name]


def load_batch(file: BinaryIO) -> dict[bytes, Any]:
    """The dict of a CIFAR batch, its keys as bytes, arrays as uint8 numpy arrays.

    Only numbers, strings, lists, dicts and arrays of bytes are read; anything else that a pickle names is refused, not called.

    Raises:
        Refused: the pickle names something else, is truncated, or is not a pickle.
    """
    try:
        batch = _Unpickler(file, encoding="bytes").load()
    except Refused:
        raise
    # Damaged pickles make the reader raise nearly anything.
    except Exception as error:
        raise Refused(f"it is damaged or not a pickle ({type(error).__name__}: {error})") from error
    if not isinstance(batch, dict):
        raise Refused("it does not hold a dict")
    plain = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
    return {key: value.value if isinstance(value, _Array) else value for key, value in plain.items()}

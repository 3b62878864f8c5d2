"""Seconds and MB of memory until an absurd config or file is refused, before anything of it is read or allocated.

python -m bench.refuse
"""

import io
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from side_ray.config.base import LARGEST
from side_ray.config.file import load_config, read_values
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.preflight import preflight
from side_ray.sources.parquet import ParquetSource
from side_ray.sources.reading.files import open_files
from side_ray.sources.reading.pixels import Transform, Unusable

CONFIG = "jobs/configs/digits_tiny.yaml"
NUMBERS: dict[str, Any] = {
    "extract.lambdas": [0, 1e308],
    "extract.samples": LARGEST,
    "dpm.timesteps": 10**8,
    "dpm.unet.layers_per_block": 3000,
    "dpm.unet.block_out_channels": [32] * 3000,
    "score.neighbors": 10**9,
    "score.shards": 10**6,
    "surrogate.classes": 10**9,
    "cluster.gpus": 1000,
}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def cases(folder: Path) -> dict[str, Callable[[], object]]:
    """By name, what is to be refused."""

    def config(key: str, value: Any) -> Callable[[], object]:
        path = folder / f"{key}.yaml"
        values = read_values(CONFIG)
        section, *inner = key.split(".")
        target = values[section]
        for name in inner[:-1]:
            target = target.setdefault(name, {})
        target[inner[-1]] = value
        path.write_text(yaml.safe_dump(values))
        return lambda: preflight(Artifacts.open(load_config(path)))

    found = {f"{key} = {str(value)[:20]}": config(key, value) for key, value in NUMBERS.items()}
    found["dpm.unet of 10¹¹ parameters"] = config("dpm.unet", _largest())
    for name, text in {
        "YAML alias bomb": BOMB,
        "YAML of 2 MB": "x" * (2 << 20),
        "YAML 20,000 deep": "[" * 20_000,
    }.items():
        (folder / name).write_text(text)
        found[name] = lambda name=name: load_config(folder / name)
    image = _png(16_000)
    found[f"PNG of 16,000² pixels in {len(image):,} bytes"] = lambda: Transform()(image)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cell = pa.array([{"bytes": bytes(300 << 20), "path": None}], kind)
    pq.write_table(pa.table({"image": cell}), folder / "bomb.parquet", compression="zstd")
    found["Parquet cell of 300 MB"] = lambda: ParquetSource(
        open_files(str(folder / "bomb.parquet"), "data.path")
    ).count()
    return found


def refused(action: Callable[[], object]) -> str:
    try:
        action()
    except (UserError, Unusable):
        return "refused"
    return "TAKEN"


def _largest() -> dict[str, Any]:
    """A U-Net that no machine holds, within the bounds of each key."""
    return {
        "block_out_channels": [8192] * 4,
        "down_block_types": ["DownBlock2D"] * 4,
        "up_block_types": ["UpBlock2D"] * 4,
        "layers_per_block": 32,
    }


def _png(side: int) -> bytes:
    """A black PNG of 16-bit gray, which Pillow compresses well."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint16)).save(buffer, "PNG", compress_level=zlib.Z_BEST_SPEED)
    return buffer.getvalue()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        many = cases(Path(folder))
        with suppress(UserError):  # loads the libraries
            preflight(Artifacts.open(load_config(CONFIG)))
        for name, action in many.items():
            began = time.perf_counter()
            outcome = refused(action)
            seconds = time.perf_counter() - began
            tracemalloc.start()  # slows what it watches
            refused(action)
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            print(f"{name:45} {outcome} in {seconds:6.3f} s, {peak:6.1f} MB")


if __name__ == "__main__":
    main()

"""Writes small data sets with the same file layout as published ones."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from side_ray.config import DataSection, StorageSection
from side_ray.sources.base import Record, Source
from side_ray.sources.pools import open_pools

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def pictures(count: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> np.ndarray:
    """uint8 [count, H, W, 3]: distinct images, smooth so that JPEG hardly changes them."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    resized = [np.asarray(Image.fromarray(each).resize(size[::-1], Image.Resampling.BICUBIC)) for each in rough]
    return np.stack(resized)


def of_classes(classes: np.ndarray, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """uint8 [N, H, W, 3]: like `pictures`, with one colour per class (int64 [N]), so that a classifier can learn them."""
    colours = np.random.default_rng(1).integers(0, 256, (int(classes.max()) + 1, 1, 1, 3))
    return (0.3 * pictures(len(classes), size) + 0.7 * colours[classes]).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def everything(source: Source) -> list[Record]:
    return [record for unit in source.units() for record in source.read(unit)]


def pools(source: str, path: Path | str, **options) -> tuple[Source, ...]:
    """The sources of a config with these settings in `data`."""
    data = DataSection(source=source, path=str(path), members=1, holdout=1, **options)  # type: ignore[arg-type]
    return open_pools(data, StorageSection())


def zipped(directory: Path, archive: Path) -> Path:
    """A zip archive of a directory; its entries start with the name of the directory."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(directory.rglob("*")):
            file.write(path, path.relative_to(directory.parent))
    return archive


def planes(images: np.ndarray) -> np.ndarray:
    """CIFAR's rows [N, 3072]: the red plane, the green, the blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def python2_batch(images: np.ndarray, labels: list[int], name: str) -> bytes:
    """A CIFAR batch as pickled by Python 2 in 2009: protocol 2, byte strings, numpy.core."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    rows = planes(images)
    out = b"\x80\x02}(" + text("batch_label") + text(name) + text("labels") + b"]("
    out += b"".join(b"K" + bytes([label]) for label in labels) + b"e" + text("data")
    out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
    out += b"(K\x01" + b"".join(b"J" + struct.pack("<i", side) for side in rows.shape) + b"\x86"
    out += b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|")
    out += (
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", rows.nbytes) + rows.tobytes() + b"tb"
    )
    out += text("filenames") + b"](" + b"".join(text(f"{number}.png") for number in range(len(rows))) + b"eu."
    return out


def binary_batch(images: np.ndarray, labels: list[int]) -> bytes:
    return np.concatenate([np.array(labels, np.uint8)[:, None], planes(images)], axis=1).tobytes()


def write_cifar(directory: Path, kind: str, per_batch: int = 4) -> tuple[np.ndarray, list[int]]:
    """The unpacked directory of the `python` or `binary` version, and its images and labels in order."""
    classes = np.arange(per_batch * 6) % 10
    images, labels = of_classes(classes), classes.tolist()
    directory.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(BATCHES):
        rows = slice(number * per_batch, (number + 1) * per_batch)
        if kind == "python":
            (directory / name).write_bytes(python2_batch(images[rows], labels[rows], name))
        else:
            (directory / f"{name}.bin").write_bytes(binary_batch(images[rows], labels[rows]))
    (directory / "batches.meta.txt").write_text("airplane\nautomobile\n")
    return images, labels


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_cifar_archive(path: Path, kind: str, per_batch: int = 4) -> tuple[np.ndarray, list[int]]:
    """cifar-10-python.tar.gz or cifar-10-binary.tar.gz."""
    inside = path.parent / "unpacked" / f"cifar-10-batches-{'py' if kind == 'python' else 'bin'}"
    images, labels = write_cifar(inside, kind, per_batch)
    files = {f"{inside.name}/{each.name}": each.read_bytes() for each in sorted(inside.iterdir())}
    path.write_bytes(gzip.compress(tar_of(files)))
    return images, labels


def write_celeba(directory: Path, count: int = 12) -> np.ndarray:
    """Aligned images of 178×218 as JPEG, the identity list and the attribute list."""
    male, smiling = np.arange(count) % 2, np.arange(count) // 4 % 2
    images = of_classes(2 * smiling + male, (218, 178))
    (directory / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, count + 1)]
    for name, image in zip(names, images, strict=True):
        (directory / "img_align_celeba" / name).write_bytes(encoded(image, "JPEG", quality=95))
    listed = [*names, "202599.jpg"]  # the list also names an image that is missing
    (directory / "identity_CelebA.txt").write_text(
        "".join(f"{name} {2880 - n // 3}\n" for n, name in enumerate(listed))
    )
    signs = [(2 * (n % 2) - 1, 2 * (n // 4 % 2) - 1) for n in range(len(listed))]
    rows = "".join(f"{name} {first:2d} {second:2d}\n" for name, (first, second) in zip(listed, signs, strict=True))
    (directory / "list_attr_celeba.txt").write_text(f"{len(listed)}\nMale Smiling \n{rows}")
    return images


def write_celeba_hq(directory: Path) -> np.ndarray:
    """Ten images; persons 7 and 9 have four each, person 8 has one, 9.jpg has no person."""
    images = pictures(10, (48, 48))
    (directory / "CelebA-HQ-img").mkdir(parents=True)
    for number, image in enumerate(images):
        (directory / "CelebA-HQ-img" / f"{number}.jpg").write_bytes(encoded(image, "JPEG", quality=95))
    persons = [7, 9, 7, 9, 7, 9, 7, 9, 8]
    (directory / "CelebA-HQ-identity.txt").write_text("".join(f"{n}.jpg {who}\n" for n, who in enumerate(persons)))
    return images


def write_celeba_hq_fi(directory: Path, persons: int, each: int, others: int) -> None:
    """Like `write_celeba_hq`: `persons` with `each` images, and `others` with one image each."""
    whose = [number % persons if number < persons * each else number for number in range(persons * each + others)]
    images = of_classes(np.array(whose), (48, 48))
    (directory / "CelebA-HQ-img").mkdir(parents=True)
    for number, image in enumerate(images):
        (directory / "CelebA-HQ-img" / f"{number}.jpg").write_bytes(encoded(image, "JPEG", quality=95))
    (directory / "CelebA-HQ-identity.txt").write_text("".join(f"{n}.jpg {who}\n" for n, who in enumerate(whose)))


def write_folder(directory: Path, images: np.ndarray, classes: int = 2) -> None:
    """PNG files distributed over `classes` sub-folders; in one folder with 0."""
    for number, image in enumerate(images):
        folder = directory / f"class-{number % classes}" if classes else directory
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.png").write_bytes(encoded(image))


def write_parquet(
    path: Path, images: np.ndarray, labels: list[Any] | None, rows: int = 3, column: str = "image"
) -> None:
    """Parquet in Hugging Face's layout."""
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        column: pa.array([{"bytes": encoded(image), "path": f"{n}.png"} for n, image in enumerate(images)], struct_type)
    }
    if labels is not None:
        columns["label"] = pa.array(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows)


def webdataset(images: np.ndarray, labels: list[int] | None, kind: str = "cls", prefix: str = "") -> bytes:
    files = {}
    for number, image in enumerate(images):
        stem = f"{prefix}{number:06d}"
        files[f"{stem}.png"] = encoded(image)
        if labels is not None:
            text = str(labels[number]) if kind == "cls" else json.dumps({"label": labels[number], "caption": "x"})
            files[f"{stem}.{kind}"] = text.encode()
    return tar_of(files)

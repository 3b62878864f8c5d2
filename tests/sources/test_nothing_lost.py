"""Images that lie where they are easily passed over: each is read, or named and counted."""

import io
import json
import os
import tarfile
import zipfile
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from side_ray.config import StorageSection
from side_ray.errors import UserError
from side_ray.sources.inventory import LEFT_OUT, inventory, told
from side_ray.sources.pools import kind_of, open_samples
from side_ray.sources.reading.pixels import Transform
from side_ray.studies.given import given_config
from tests.formats import (
    encoded,
    everything,
    pictures,
    pools,
    tar_of,
    write_celeba,
    write_folder,
    write_parquet,
    zipped,
)

IMAGES = pictures(6, (8, 8))
PNGS = [encoded(image) for image in IMAGES]


def pixels(records):
    return np.stack([Transform()(record.content) for record in records])


def left_out(source):
    return {row["reason"]: (row["count"], row["first"]) for row in source.left_out().rows()}


def test_the_content_decides_what_is_an_image(tmp_path):
    names = ["a.png", "b.jfif", "c.jpe", "d.avif", "e", "f.img.v2"]
    for name, content in zip(names, PNGS, strict=True):
        (tmp_path / name).write_bytes(content)
    avif = encoded(IMAGES[0], "AVIF", quality=100)
    (tmp_path / "g.dat").write_bytes(avif)
    for name, text in (
        ("a.md", "BMW beside a wall"),
        ("b.md", "Python on a tree"),
        ("c.md", "P1 is a car"),
        (".x", ""),
    ):
        (tmp_path / name).write_text(text)
    (source,) = pools("folder", tmp_path)
    records = everything(source)
    assert [record.name for record in records] == [*names, "g.dat"]
    assert np.array_equal(pixels(records[:6]), IMAGES)
    assert source.count() == 7
    assert left_out(source) == {"hidden": (1, [".x"]), "no images": (3, ["a.md", "b.md", "c.md"])}


def test_runs_keep_their_fingerprints_where_nothing_more_is_found(tmp_path):
    write_folder(tmp_path, IMAGES, classes=0)
    (tmp_path / "notes.txt").write_text("x")
    (source,) = pools("folder", tmp_path)
    assert source.identity() == source.files.identity()
    (tmp_path / "more.jfif").write_bytes(PNGS[0])
    (source,) = pools("folder", tmp_path)
    assert source.identity() == f"{source.files.identity()}/content"


def test_links_to_nothing_are_named_and_links_in_a_circle_end(tmp_path):
    for number in range(4):
        if number % 2:
            (tmp_path / f"{number}.png").write_bytes(PNGS[number])
        else:
            os.symlink(f"/nonexistent/{number}", tmp_path / f"{number}.png")
    os.symlink(".", tmp_path / "all")
    os.symlink("self.png", tmp_path / "self.png")
    os.symlink("/nonexistent", tmp_path / "blob")
    (source,) = pools("folder", tmp_path, labels=False)
    errors = {record.name: record.error for record in everything(source)}
    assert [name for name, error in errors.items() if not error] == ["1.png", "3.png"]
    assert {error for error in errors.values() if error} == {"is a link to nothing, or was removed"}
    assert left_out(source) == {"links to nothing": (1, ["blob"])}
    assert source.identity()


def test_names_that_are_not_utf8(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.png").write_bytes(PNGS[0])
    with open(os.fsencode(str(tmp_path / "f")) + b"/caf\xe9.png", "wb") as file:
        file.write(PNGS[1])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("caf\xe9.png")
        info.size = len(PNGS[1])
        archive.addfile(info, io.BytesIO(PNGS[1]))
    (tmp_path / "t.tar").write_bytes(buffer.getvalue())
    records = everything(pools("folder", tmp_path / "f")[0])
    assert [record.name for record in records] == ["a.png", "caf%E9.png"]
    assert np.array_equal(pixels(records), IMAGES[:2])
    (packed,) = everything(pools("webdataset", tmp_path / "t.tar")[0])
    assert pa.array([packed.name], pa.string())[0].as_py() == "t.tar/caf%E9"


def test_tar_files_that_were_joined_are_read_to_the_end(tmp_path):
    parts = [tar_of({f"{number}.png": PNGS[number], f"{number}.txt": b"a caption"}) for number in range(3)]
    (tmp_path / "t.tar").write_bytes(b"".join(parts))
    records = everything(pools("webdataset", tmp_path)[0])
    assert np.array_equal(pixels(records), IMAGES[:3])
    assert {record.caption for record in records} == {"a caption"}
    (tmp_path / "t.tar").write_bytes(parts[0] + b"rubbish" * 200)
    assert (
        "the archive is damaged after 1 samples (it holds other data"
        in everything(pools("webdataset", tmp_path)[0])[-1].error
    )
    (tmp_path / "t.tar").write_bytes(b"".join(parts)[:-3000])
    assert "the archive is damaged" in everything(pools("webdataset", tmp_path)[0])[-1].error


@pytest.mark.parametrize(
    ("names", "records", "others"),
    [
        (["photo.v1.png", "photo.v2.png", "plain.png"], ["photo.v1.png", "photo.v2.png", "plain"], []),
        (["img_0.5.png", "img_0.7.png"], ["img_0.5.png", "img_0.7.png"], []),
        (["a.png", "a.mask.png", "b.txt"], ["a"], ["a.mask.png", "b.txt"]),
        (["a.jfif", "b.avif", "c", "d.npy"], ["a", "b", "c", "d"], []),
    ],
)
def test_images_in_a_tar_of_any_name(names, records, others, tmp_path):
    (tmp_path / "t.tar").write_bytes(tar_of({name: PNGS[number] for number, name in enumerate(names)}))
    found = everything(pools("webdataset", tmp_path)[0])
    assert [record.name for record in found if not record.left_out] == [f"t.tar/{name}" for name in records]
    assert [record.name for record in found if record.left_out] == [f"t.tar/{name}" for name in others]
    assert not any(record.error for record in found)


def test_a_list_with_a_byte_order_mark_loses_nobody(tmp_path):
    write_celeba(tmp_path)
    for name in ("identity_CelebA.txt", "list_attr_celeba.txt"):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for options in ({}, {"attributes": ["Male"]}):
        (source,) = pools("celeba", tmp_path, **options)
        assert source.count() == 12
        assert left_out(source)["named by the list, but not there"] == (1, ["202599.jpg"])


def test_a_zip_from_windows_keeps_its_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for number, name in enumerate(("cat/1.png", "dog/2.png")):
            entry = zipfile.ZipInfo(name)
            entry.filename = name.replace("/", "\\")
            archive.writestr(entry, PNGS[number])
    records = everything(pools("folder", tmp_path / "w.zip")[0])
    assert [record.label for record in records] == ["cat", "dog"]
    assert np.array_equal(pixels(records), IMAGES[:2])
    (tmp_path / "w.zip").write_bytes(b"")
    with pytest.raises(UserError, match="is not a whole zip archive"):
        pools("folder", tmp_path / "w.zip")[0].count()


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "arrow"])
def test_training_and_test_files_side_by_side_are_refused_until_a_pattern_chooses(kind, tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        if kind == "parquet":
            write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", IMAGES[:count], None)
        elif kind == "webdataset":
            (tmp_path / f"{split}-0000.tar").write_bytes(tar_of({f"{n}.png": PNGS[n] for n in range(count)}))
        else:
            write_arrow(tmp_path / split, count)
    with pytest.raises(UserError, match=r"files of several splits \(1 of test, 1 of train\); give those that"):
        everything(pools(kind, tmp_path)[0])
    assert len(everything(pools(kind, tmp_path / "**/train*" if kind != "arrow" else tmp_path / "train")[0])) == 4
    assert len(everything(pools(kind, tmp_path / "**/*.*")[0])) == 6
    with pytest.raises(UserError, match="there is no"):
        everything(pools(kind, tmp_path / "val*")[0])


def write_arrow(directory, count, column="image"):
    import datasets

    rows = {column: [Image.fromarray(image) for image in IMAGES[:count]], "label": [n % 2 for n in range(count)]}
    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(directory))


def test_what_save_to_disk_writes_is_read_without_its_caches(tmp_path):
    write_arrow(tmp_path / "set", 5, column="img")
    (tmp_path / "set" / "cache-0123.arrow").write_bytes(b"x")
    assert kind_of(str(tmp_path / "set"), "data.path", StorageSection()) == "arrow"
    (source,) = pools("arrow", tmp_path / "set")
    records = everything(source)
    assert np.array_equal(pixels(records), IMAGES[:5])
    assert [record.label for record in records] == list("01010")
    assert source.count() == 5
    assert left_out(source)["Arrow files that state.json does not name"] == (1, ["cache-0123.arrow"])
    data = tmp_path / "set" / "data-00000-of-00001.arrow"
    whole = data.read_bytes()
    # Offsets that lead out of the data: without a check, Arrow ends the process.
    for old, new in ((b"\x05\x00\x00\x00", b"\xff\xff\xff\x7f"), (b"img", b"\xff\xfe\xfd")):
        data.write_bytes(whole.replace(old, new))
        with suppress(UserError):
            everything(pools("arrow", tmp_path / "set")[0])
    data.write_bytes(whole)
    data.write_bytes(data.read_bytes()[:-300])
    with pytest.raises(UserError, match="is not a whole Arrow file"):
        everything(pools("arrow", tmp_path / "set")[0])


def test_numpy_files_are_read_in_pieces(tmp_path):
    np.savez(tmp_path / "samples_6x8x8x3.npz", IMAGES, np.arange(6))
    np.savez_compressed(tmp_path / "z.npz", arr_0=IMAGES[:2, :, :, :1], arr_1=np.array([7, 8]))
    assert kind_of(str(tmp_path), "data.path", StorageSection()) == "arrays"
    (source,) = pools("arrays", tmp_path)
    source.unit_images = 4
    records = everything(source)
    assert np.array_equal(np.stack([record.content for record in records[:6]]), IMAGES)
    assert np.array_equal(records[7].content, IMAGES[1, :, :, 0])
    assert [record.label for record in records] == list("01234578")
    np.save(tmp_path / "one.npy", IMAGES)
    samples = open_samples(str(tmp_path / "one.npy"), StorageSection())
    assert (samples.count(), samples.labelled) == (6, False)
    assert np.array_equal(everything(samples)[3].content, IMAGES[3])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{"a": 1}], dtype=object), "holds Python objects, which are not read"),
        (np.zeros((4, 3)), r"holds no arrays of images \(\[4, 3\] float64\)"),
        (np.asfortranarray(IMAGES), "Fortran order"),
        (np.zeros((2, 3, 8, 8), np.uint8), "holds no arrays of images"),
    ],
)
def test_arrays_that_are_no_images_are_named(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=message):
        pools("arrays", tmp_path / "a.npy")[0].count()
    np.save(tmp_path / "a.npy", IMAGES)
    whole = (tmp_path / "a.npy").read_bytes()
    # The last two are no whole Python expression, which numpy's parser answers with errors of its own.
    cut, nested = whole[:12] + b"\0" + whole[13:], whole[:10] + b"(" * 100 + whole[110:]
    for content in (whole[:-100], whole[:20], b"", b"PK\x03\x04", whole[:6] + b"\x09\x09" + whole[8:], cut, nested):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(UserError, match="is not a whole NumPy file"):
            everything(pools("arrays", tmp_path / "a.npy")[0])


@pytest.mark.parametrize("packed", [False, True])
def test_edm_archives_have_their_labels(packed, tmp_path):
    names = [f"00000/img{number:08d}.png" for number in range(3)] + ["00001/img00000003.png"]
    files = dict(zip(names, PNGS, strict=False))
    files["dataset.json"] = json.dumps(
        {"labels": [[name, n + 5] for n, name in enumerate([*names, "gone.png"])]}
    ).encode()
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (source,) = pools("folder", tmp_path / ("set.zip" if packed else "set"))
    assert [record.label for record in everything(source)] == ["5", "6", "7", "8"]
    assert left_out(source)["named by a manifest, but not there"] == (1, ["gone.png"])


def test_metadata_give_labels_and_captions(tmp_path):
    write_folder(tmp_path, IMAGES[:2], classes=0)
    rows = [{"file_name": f"{n:05d}.png", "text": f"picture {n}", "kind": n} for n in range(2)]
    (tmp_path / "metadata.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)))
    records = everything(pools("folder", tmp_path, label_column="kind")[0])
    assert [(record.label, record.caption) for record in records] == [("0", "picture 0"), ("1", "picture 1")]
    assert not pools("folder", tmp_path)[0].labelled
    (tmp_path / "metadata.jsonl").write_text('{"file_name": 3}')
    with pytest.raises(UserError, match=r"metadata\.jsonl in .* is damaged \(row 1 has no file_name\)"):
        pools("folder", tmp_path)[0].count()


def test_tables_of_links_beside_images_are_no_image_set(tmp_path):
    write_folder(tmp_path / "files" / "00000", IMAGES, classes=0)
    pq.write_table(pa.table({"url": ["u"]}), tmp_path / "files" / "00000.parquet")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "00000.tar").write_bytes(tar_of({"0.png": PNGS[0]}))
    pq.write_table(pa.table({"url": ["u"]}), tmp_path / "tars" / "00000.parquet")
    write_parquet(tmp_path / "img" / "g.parquet", IMAGES, None, column="img")
    assert kind_of(str(tmp_path / "files"), "data.path", StorageSection()) == "folder"
    assert kind_of(str(tmp_path / "tars"), "data.path", StorageSection()) == "webdataset"
    assert open_samples(str(tmp_path / "img"), StorageSection()).count() == 6
    two = pq.read_table(tmp_path / "img" / "g.parquet")
    (tmp_path / "two").mkdir()
    pq.write_table(two.append_column("mask", two.column("img")), tmp_path / "two" / "g.parquet")
    with pytest.raises(
        UserError, match=r"^given\.image_column: .* has no column image; it has img, mask: name the one"
    ):
        open_samples(str(tmp_path / "two"), StorageSection()).count()
    assert open_samples(str(tmp_path / "two"), StorageSection(), "img").count() == 6
    paths = [str(tmp_path / name) for name in ("two", "files")]
    config = given_config(*paths, None, str(tmp_path / "run"), ["data.image_column=img"])
    assert config.given is not None
    assert (config.given.image_column, config.extract.samples) == ("img", 6)
    with pytest.raises(UserError, match=r"^given\.samples: .* is a webdataset archive; unpack it"):
        open_samples(str(tmp_path / "tars"), StorageSection())


@pytest.mark.long
def test_tables_with_two_columns_of_one_name_and_cells_that_explode_are_refused_unread(tmp_path, monkeypatch):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cell = pa.array([{"bytes": PNGS[0], "path": None}], kind)
    pq.write_table(pa.table([cell, cell], names=["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has 2 columns image; rename all but one"):
        pools("parquet", tmp_path)[0].count()
    bomb = pa.array([{"bytes": bytes(300 << 20), "path": None}], kind)
    pq.write_table(pa.table({"image": bomb}), tmp_path / "a.parquet", compression="zstd")
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    with pytest.raises(
        UserError, match=r"image has 314,\d+,\d+ bytes in 1 rows of row group 0 .* which no images have"
    ):
        pools("parquet", tmp_path)[0].count()


def test_an_inventory_counts_equal_faults_once(tmp_path):
    write_folder(tmp_path, IMAGES, classes=0)
    (tmp_path / "notes.txt").write_text("x")
    (source,) = pools("folder", tmp_path)
    unused = [(f"{n}.png", f"damaged (OSError: {n} bytes)") for n in range(4)] + [("b.txt", f"{LEFT_OUT}no images")]
    (row,) = inventory([source], [6], [unused])
    assert (row["role"], row["found"], row["read"]) == ("images", 7, 1)
    assert row["left_out"] == [
        {"reason": "no images", "count": 2, "first": ["notes.txt", "b.txt"]},
        {"reason": "damaged", "count": 4, "first": ["0.png", "1.png", "2.png"]},
    ]
    assert told(row).endswith("1 read; left out: 4 damaged (0.png, 1.png, 2.png, …); 2 no images (notes.txt, b.txt)")


def captions(source):
    return [record.caption for record in everything(source)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_text_beside_an_image_is_its_caption(packed, tmp_path):
    folder = tmp_path / "set"
    write_folder(folder, IMAGES[:4], classes=0)
    (folder / "00000.txt").write_text("\ufeffa cat\n")
    (folder / "00001.caption").write_bytes(b"caf\xe9")
    (folder / "00002.TXT").write_text("x" * 100_000)
    (folder / "notes.txt").write_text("about the set")
    (source,) = pools("folder", zipped(folder, tmp_path / "set.zip") if packed else folder)
    found = captions(source)
    assert found == ["a cat", "caf\ufffd", "x" * (1 << 16), None]
    assert [names for _, names in left_out(source).values()] == [["set/notes.txt" if packed else "notes.txt"]]


def test_captions_of_tables_and_archives(tmp_path):
    write_parquet(tmp_path / "a.parquet", IMAGES[:2], None)
    table = pq.read_table(tmp_path / "a.parquet").append_column("caption", pa.array(["x", None], pa.large_string()))
    pq.write_table(table, tmp_path / "a.parquet")
    assert captions(pools("parquet", tmp_path / "a.parquet")[0]) == ["x", None]
    files = {"0.png": PNGS[0], "0.txt": b"one", "1.png": PNGS[1], "1.json": b'{"caption": "two"}', "2.png": PNGS[2]}
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    assert captions(pools("webdataset", tmp_path / "a.tar")[0]) == ["one", "two", None]


def test_of_several_captions_the_first_counts(tmp_path):
    write_parquet(tmp_path / "a.parquet", IMAGES[:3], None)
    texts = pa.array([["x", "y"], [], None], pa.list_(pa.string()))
    pq.write_table(pq.read_table(tmp_path / "a.parquet").append_column("captions", texts), tmp_path / "a.parquet")
    assert captions(pools("parquet", tmp_path / "a.parquet")[0]) == ["x", None, None]
    content = [b'{"captions": ["one", "two"]}', b'{"text": 3, "caption": "three"}']
    files = {f"{n}.{kind}": each for n in range(2) for kind, each in (("png", PNGS[n]), ("json", content[n]))}
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    assert captions(pools("webdataset", tmp_path / "a.tar")[0]) == ["one", "three"]
    write_folder(tmp_path / "images", IMAGES[:1], classes=0)
    (tmp_path / "images" / "metadata.jsonl").write_text('{"file_name": "00000.png", "caption": ["a", "b"]}')
    assert captions(pools("folder", tmp_path / "images")[0]) == ["a"]

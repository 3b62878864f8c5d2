import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from side_ray.errors import UserError
from side_ray.sources.parquet import ParquetSource
from side_ray.sources.reading.files import open_files
from side_ray.sources.reading.pixels import Transform
from tests.formats import encoded, everything, pictures, write_parquet


def parquet(path, **options) -> ParquetSource:
    return ParquetSource(open_files(str(path), "data.path"), **options)


def test_round_trip_over_files_and_row_groups(tmp_path):
    images = pictures(8)
    write_parquet(tmp_path / "data" / "train-00000.parquet", images[:5], [4, 3, 2, 1, 0])
    write_parquet(tmp_path / "data" / "train-00001.parquet", images[5:], [7, 7, 7])
    source = parquet(tmp_path, unit_images=3)
    assert (source.count(), source.labelled, len(list(source.units()))) == (8, True, 3)
    records = everything(source)
    assert np.array_equal(np.stack([Transform()(record.content) for record in records]), images)
    assert [record.label for record in records] == list("43210777")
    assert records[6].name == "data/train-00001.parquet#1 (1.png)"
    assert everything(parquet(tmp_path)) == records


def test_what_huggingface_writes_can_be_read(tmp_path):
    images = pictures(4)
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    rows = {"img": [Image.fromarray(image) for image in images], "label": [0, 1, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "cifar.parquet"))
    records = everything(parquet(tmp_path / "cifar.parquet", image_column="img"))
    assert np.array_equal(np.stack([Transform()(record.content) for record in records]), images)
    assert [record.label for record in records] == list("0110")


def test_no_label_column_means_no_labels(tmp_path):
    write_parquet(tmp_path / "a.parquet", pictures(2), None)
    assert not parquet(tmp_path).labelled
    assert [record.label for record in everything(parquet(tmp_path))] == [None, None]
    with pytest.raises(UserError, match=r"data\.label_column: a\.parquet .* has no column fine"):
        _ = parquet(tmp_path, label_column="fine").labelled
    write_parquet(tmp_path / "b.parquet", pictures(2), [1, 2])
    with pytest.raises(UserError, match=r"data\.label_column: a\.parquet .* has no column label"):
        _ = parquet(tmp_path).labelled


def test_images_that_are_not_there_are_named(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": encoded(pictures(1)[0]), "path": None}, {"bytes": None, "path": "/a.png"}, None], kind)
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    errors = [record.error for record in everything(parquet(tmp_path))]
    assert errors == ["", "holds only a path, not the image; embed the files' bytes", "holds no image"]


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"there is no \.parquet file"):
        parquet(tmp_path).count()
    path = tmp_path / "a.parquet"
    write_parquet(path, pictures(3), [1, 2, 3])
    whole = path.read_bytes()
    for content in (whole[:-200], b"PAR1" + whole[4:-4] + b"XXXX", b"hello", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet in .* is not a whole Parquet file") as caught:
            parquet(path).count()
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"data\.image_column: .* has no column img; it has image, label"):
        parquet(path, image_column="img").count()
    with pytest.raises(UserError, match=r"label in a\.parquet in .* is int64, not struct"):
        parquet(path, image_column="label").count()


def test_a_damaged_page_ends_its_piece_with_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, pictures(6), None, rows=6)
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(40)
    path.write_bytes(content)
    assert "damaged" in everything(parquet(path))[-1].error

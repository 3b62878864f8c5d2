"""The digits of scikit-learn as a source."""

import numpy as np
from sklearn import datasets

from side_ray.config import DataSection, StorageSection
from side_ray.sources.pools import Description, describe, open_pools, shape_by_config, transform_of
from side_ray.sources.published.digits import load_digits
from tests.formats import everything

DATA = DataSection(source="digits", members=3, holdout=2)


def test_digits_are_a_source_like_any_other():
    pools = open_pools(DATA, StorageSection())
    assert describe(DATA, pools) == Description((1797,), (8, 8, 1), True)
    assert shape_by_config(DATA) == (8, 8, 1)
    assert pools[0].identity() is None
    records, raw = everything(pools[0]), datasets.load_digits()
    assert [record.label for record in records] == [str(digit) for digit in raw.target]
    pixels = np.stack([transform_of(DATA)(record.content) for record in records])
    assert (pixels == load_digits().images).all()
    assert (pixels[..., 0] == np.round(raw.images * 255 / 16)).all()

"""Which samples may say who the members are."""

import numpy as np
import pytest

from side_ray.results.evidence import _by_model_alone
from side_ray.statistics.evidence.pool import Competition, PoolShape
from tests.audits import tiny_config


@pytest.mark.parametrize(
    ("prompts", "taken"),
    [
        (None, True),
        ("captions", True),
        ("empty", True),
        ("member_captions", False),
        ("unseen_captions", False),
        ("my-prompts.txt", False),
    ],
)
def test_samples_with_captions_of_one_side_do_not_bound_the_privacy_loss(tmp_path, prompts, taken):
    chosen = {} if prompts is None else {"dpm": {"path": str(tmp_path), "prompts": prompts}}
    config = tiny_config(tmp_path / "run", surrogate__labels="cluster", **chosen)
    won = Competition(np.array([0, 5]), np.zeros(2, np.float32), np.arange(2), np.array([0, 5]))
    found = _by_model_alone(config, PoolShape.plain(4, 8), {("random", 0.0): won})
    assert (found is not None) == taken

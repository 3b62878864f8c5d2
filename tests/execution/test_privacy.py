"""The lower bound on ε for models whose training is known: real losses, by the real step."""

import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from side_ray.diffusion.denoisers import made_from_members
from side_ray.execution.privacy import privacy
from side_ray.images import to_float
from side_ray.results.privacy import WHY, coins_of, losses_of, privacy_metrics
from side_ray.runs.dataset import read_split
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.sources.published.digits import load_digits
from side_ray.sources.select import SPLITS
from side_ray.stages.prepare import prepare
from side_ray.stages.train_dpm import train_dpm
from side_ray.statistics.evidence.pool import PoolShape
from side_ray.statistics.evidence.privacy import TIMES, guess, loss_score
from tests.audits import tiny_config
from tests.local import stages_here

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The closed-form model of 300 digits, with the losses of these and of 300 unseen ones."""
    root = tmp_path_factory.mktemp("privacy") / "run"
    config = tiny_config(root, dpm__kind="optimal", data__members=300, data__holdout=150)
    return stages_here(config, [prepare, train_dpm, privacy])


def test_a_model_that_holds_300_images_loses_more_than_3(made):
    found = privacy_metrics(made, PoolShape.plain(300, 300), None)
    assert found["pairs"] == 300
    assert 3 <= found["epsilon"] <= found["most"] == pytest.approx(4.6, abs=0.01)


def test_a_model_of_other_images_loses_nothing_in_95_percent_of_draws(made, tmp_path):
    shutil.copytree(made.run.store.uri, tmp_path / "run")
    own = [read_split(made.run.store, made.prepare.key, split).images for split in SPLITS]
    known = {image.tobytes() for image in np.concatenate(own)}
    others = np.array([image for image in load_digits().images if image.tobytes() not in known])[:300]
    config = tiny_config(tmp_path / "run", dpm__kind="optimal", data__members=300, data__holdout=150)
    dpm, kind = tmp_path / "run" / made.dpm.key, made_from_members(config.dpm)
    kind.save(kind.make(to_float(others), config.dpm), tmp_path / "other")
    shutil.rmtree(dpm)
    shutil.rmtree(tmp_path / "run" / "privacy")
    artifacts = stages_here(config, [prepare])
    artifacts.dpm.put_dir(Path(tmp_path / "other"))
    artifacts.dpm.finish(kind="optimal", images=300)
    stages_here(config, [privacy])
    coins = coins_of(artifacts)
    shards = losses_of(artifacts, coins)
    table = shards.read_first(shards_of(len(coins.images), shards.rows), ["loss"])
    score = loss_score(np.array(table.column("loss").to_pylist()))
    members, unseen = score[:300], score[300:600]
    rng, zero = np.random.default_rng(0), 0
    for _ in range(1000):
        trained = rng.random(300) < 0.5
        sides = np.where(trained, members, unseen), np.where(trained, unseen, members)
        zero += all(each.epsilon == 0 for each in guess("loss", *sides, 0.05))
    assert zero / 1000 >= 0.95


@pytest.mark.parametrize(("prompts", "reason"), [(None, "losses"), ("member_captions", "prompts")])
def test_why_there_is_no_bound_without_losses_and_samples(made, monkeypatch, prompts, reason):
    blank = pa.table({"loss": [[math.nan] * len(TIMES)] * 600})
    monkeypatch.setattr(ShardSet, "read_first", lambda *_: blank)
    config = made.config.model_copy(update={"dpm": made.config.dpm.model_copy(update={"prompts": prompts})})
    monkeypatch.setattr(made, "config", config)
    assert privacy_metrics(made, PoolShape.plain(300, 300), None) == {"epsilon": None, "reason": reason}
    assert reason in WHY

"""Brings the training images into the run's canonical Parquet, split into members and two sets that nothing is trained on."""

from side_ray.config import Config
from side_ray.datasets import SPLITS, load_source, split_indices, split_table, to_parquet
from side_ray.stages.plan import Artifacts
from side_ray.stages.progress import Reporter


def prepare(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Write `part-*.parquet`, one part per split; does nothing if they are there.

    Raises:
        UserError: the source holds fewer images than the splits need.
    """
    artifact = artifacts.prepare
    if artifact.done:
        reporter.say("prepare: images are there")
    else:
        source = load_source(config.data)
        chosen = split_indices(config.data, len(source), config.run.seed)
        for number, split in enumerate(SPLITS):
            table = split_table(source, chosen[split], split)
            artifact.store.write(f"{artifact.key}/part-{number:06d}.parquet", to_parquet(table))
        sizes = {split: len(chosen[split]) for split in SPLITS}
        classes = 0 if source.labels is None else int(source.labels.max()) + 1
        artifact.finish(source=config.data.source, shape=list(source.images.shape[1:]), classes=classes, **sizes)
        reporter.say(f"prepare: {sizes['member']} members, {sizes['calibration']} + {sizes['holdout']} unseen images")
    artifacts.run.point_latest(prepare=artifact.key)

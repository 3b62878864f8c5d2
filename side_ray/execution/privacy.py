"""Step: the denoising loss of members and unseen images, for a lower bound on the privacy loss ε of the training."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from side_ray.config import Config
from side_ray.diffusion.condition.drawn import example
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import add_noise
from side_ray.diffusion.sampler import Noise, sample_seed
from side_ray.execution.audit import Audit
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, run_shards
from side_ray.images import to_float
from side_ray.registry import Carrier
from side_ray.results.privacy import Coins, coins_of, losses_of
from side_ray.runs.dataset import read_split
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.runs.status import locate
from side_ray.statistics.evidence.privacy import DRAWS, TIMES


@dataclass(frozen=True)
class LossSpec(Carrier):
    """What a worker needs, by path. `images`: split and id of each image."""

    prepared: Artifact
    dpm: Artifact
    job: ShardJob
    images: list[tuple[str, int]]
    seed: int
    batch: int
    threads: int
    code: bool
    """Whether the model is a function of the user's own, which may be executed."""


class LossWorker(ShardActor):
    """Computes the denoising loss |ε̂ − ε|² per pixel, or per value of a latent, of images at `TIMES`, and writes it in shards."""

    stage = "privacy"
    phases = ("compute", "write")

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return True

    def __init__(self, spec: LossSpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dpm: Any = None
        self._lock = threading.Lock()

    def load(self) -> None:
        self.dpm = load_dpm(self.fetched(self.spec.dpm), device=self.device, code=self.spec.code)

    def output(self, task: Task) -> ShardSet:
        return self.spec.job.output

    def make(self, task: Task, row: dict[str, Any]) -> None:
        self.ready()
        output = self.spec.job.output
        first = task.shard * output.rows
        chosen = self.spec.images[first : first + output.size(task.shard)]
        with self._lock:
            began = time.perf_counter()
            losses = self._losses(to_float(self._read(chosen)))
            row["seconds_compute"] = time.perf_counter() - began
        self.check_weights()
        began = time.perf_counter()
        splits, ids = zip(*chosen, strict=True)
        table = pa.table({"split": list(splits), "id": pa.array(ids, pa.int64()), "loss": list(losses)})
        output.write(task.shard, table)
        row |= {"seconds_write": time.perf_counter() - began, "rows": len(chosen)}

    def _read(self, chosen: list[tuple[str, int]]) -> np.ndarray:
        found: dict[tuple[str, int], np.ndarray] = {}
        for split in dict.fromkeys(name for name, _ in chosen):
            ids = [number for name, number in chosen if name == split]
            images = read_split(self.spec.prepared.store, self.spec.prepared.key, split, ids=ids)
            found |= {(split, int(number)): image for number, image in zip(images.ids, images.images, strict=True)}
        return np.stack([found[each] for each in chosen])

    def _losses(self, x0: torch.Tensor) -> np.ndarray:
        """float64 [N, len(TIMES)]; NaN for a model without a schedule ᾱ_t, of another range of pixels, or that wants a class."""
        columns = []
        levels = getattr(self.dpm, "alphas_cumprod", None)
        codec = getattr(self.dpm, "codec", None)
        if levels is None or example(self.dpm) is not None or (codec is not None and not codec.latent):
            return np.full((len(x0), len(TIMES)), np.nan)
        if codec is not None:
            x0 = codec.encode(x0.to(self.device)).cpu()
        for share in TIMES:
            t = int(share * (len(levels) - 1))
            signal, sigma = float(levels[t]) ** 0.5, (1 - float(levels[t])) ** 0.5
            total = np.zeros(len(x0))
            for draw in range(DRAWS):
                seed = sample_seed(self.spec.seed, f"privacy/{t}", draw)
                # One draw for all images: what differs between two losses is then the images.
                noise = Noise([seed], tuple(x0.shape[1:])).normal()
                for start in range(0, len(x0), self.spec.batch):
                    rows = x0[start : start + self.spec.batch]
                    eps = noise.expand_as(rows)
                    x_t = add_noise(rows, eps, signal, sigma).to(self.device)
                    steps = torch.full((len(rows),), t, dtype=torch.int64, device=self.device)
                    with torch.no_grad():
                        off = self.dpm.eps(x_t, steps).cpu().double() - eps.double()
                    total[start : start + len(rows)] += (off**2).flatten(1).mean(1).numpy()
            columns.append(total / DRAWS)
        return np.stack(columns, axis=1)


def privacy(audit: Audit) -> None:
    """Compute the missing losses; does nothing where no fair coin has told members from unseen images (`coins_of`).

    Raises:
        RunError: some shards failed. All others are kept.
    """
    artifacts = audit.artifacts
    coins = coins_of(artifacts)
    if not isinstance(coins, Coins):
        locate(audit.run.store, "privacy", "", 0)
        return
    output = losses_of(artifacts, coins)
    locate(audit.run.store, "privacy", output.directory, len(coins.images))
    job = ShardJob(output, shards_of(len(coins.images), output.rows))
    config = audit.config

    def spec() -> LossSpec:
        size = config.extract.batch_size
        seed, threads, code = config.run.seed, config.cluster.actor_cpus, config.dpm.function is not None
        return LossSpec(artifacts.prepare, artifacts.dpm, job, coins.images, seed, size, threads, code)

    run_shards(audit, LossWorker, [job], spec, "privacy", "images")
    audit.run.point_latest(privacy=output.directory)

"""Computes the theory's inputs from the DPM in shards: densities by the probability flow ODE, and latents."""

import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from side_ray.config import Config
from side_ray.config.studies import TheorySection
from side_ray.diffusion.dpm import VariancePreservingDpm, load_dpm, variance_preserving
from side_ray.diffusion.likelihood import Hutchinson, draw, log_likelihood
from side_ray.diffusion.noise_process import add_noise
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.sampler import Noise, sample_seed
from side_ray.diffusion.unet_dpm import UnetDpm, middle_block
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task
from side_ray.images import to_float
from side_ray.registry import Carrier
from side_ray.runs.dataset import read_split
from side_ray.runs.run import Artifact
from side_ray.storage import Store
from side_ray.theory.measures import mixture_log_density


@dataclass(frozen=True)
class TrainingSet:
    """The members that represent the training set: ids int64 [N], images float32 [N, C, H, W] in [-1, 1], and the class
    condition of each in training, int64 [N] (None for an unconditional model)."""

    ids: np.ndarray
    images: torch.Tensor
    classes: np.ndarray | None


Kind = Literal["data", "model", "latents"]


@dataclass(frozen=True)
class TheoryJob(ShardJob):
    """One table with `wanted` rows.

    `data`: points from the training set smoothed with variance `epsilon`, with `log_q` and `log_p`. `model`: samples of p_θ with
    `log_p`. `latents`: the middle block of each training image at each t, for `draws` draws of noise.
    """

    kind: Kind
    wanted: int
    epsilon: float = 0.0


@dataclass(frozen=True)
class TheorySpec(Carrier):
    """Everything that a worker needs, by path. `ids`: the members in use; `classes`: their class conditions."""

    store: Store
    prepared: str
    dpm: Artifact
    jobs: list[TheoryJob]
    theory: TheorySection
    ids: list[int]
    classes: list[int] | None
    seed: int
    threads: int
    code: bool
    """Whether the model may be code, which the config names."""


def noise_seeds(seed: int, stream: str, rows: range) -> list[int]:
    """The seeds of these rows in one of the theory's random streams."""
    return [sample_seed(seed, f"theory/{stream}", i) for i in rows]


class TheoryWorker(ShardActor):
    """Computes and writes shards of all kinds of `TheoryJob`."""

    stage = "theory"
    phases = ("compute", "write")

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return True

    def __init__(self, spec: TheorySpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dpm: VariancePreservingDpm
        self._lock = threading.Lock()

    def load(self) -> None:
        self.dpm = variance_preserving(load_dpm(self.fetched(self.spec.dpm), self.device, code=self.spec.code))

    @cached_property
    def training(self) -> TrainingSet:
        """The members in use, read once per worker."""
        found = read_split(self.spec.store, self.spec.prepared, "member", ids=self.spec.ids)
        classes = None if self.spec.classes is None else np.array(self.spec.classes, np.int64)
        return TrainingSet(found.ids, to_float(found.images), classes)

    def make(self, task: Task, row: dict[str, Any]) -> None:
        self.ready()
        job = self.spec.jobs[task.job]
        rows = range(task.shard * job.output.rows, (task.shard + 1) * job.output.rows)
        compute = {"data": self._data, "model": self._model, "latents": self._latents}[job.kind]
        # One thread at a time: the hook of `middle_block` would also record the network calls of another thread.
        with self._lock:
            began = time.perf_counter()
            columns = compute(job, rows)
            row["seconds_compute"] = time.perf_counter() - began
        began = time.perf_counter()
        self.check_weights()
        job.output.write(task.shard, pa.table({"row": pa.array(rows, pa.int64()), **columns}))
        row["seconds_write"] = time.perf_counter() - began
        row["rows"] = len(rows)

    def _data(self, job: TheoryJob, rows: range) -> dict[str, Any]:
        training, shape = self.training, self.dpm.image_shape
        seeds = noise_seeds(self.spec.seed, f"data/{job.epsilon!r}", rows)
        chosen = np.array([seed % len(training.ids) for seed in seeds])
        x = training.images[chosen].double() + job.epsilon**0.5 * Noise(seeds, shape).normal().double()
        labels = None if training.classes is None else training.classes[chosen]
        allowed = None if labels is None else labels[:, None] == training.classes
        centres = training.images.flatten(1).double().numpy()
        log_q = mixture_log_density(x.flatten(1).numpy(), centres, job.epsilon, allowed)
        log_p = log_likelihood(
            self.dpm,
            x.to(self.device),
            steps=self.spec.theory.ode_steps,
            divergence=self._hutchinson(seeds),
            variance=job.epsilon,
            class_labels=self._on_device(labels),
        )
        return {
            "image": pa.array(chosen, pa.int64()),
            "log_q": pa.array(log_q),
            **self._densities(x, log_p, job.epsilon),
        }

    def _model(self, job: TheoryJob, rows: range) -> dict[str, Any]:
        seeds = noise_seeds(self.spec.seed, "model", rows)
        noise = Noise(seeds, self.dpm.image_shape)
        steps = self.spec.theory.ode_steps
        x, log_p = draw(self.dpm, noise, steps=steps, divergence=self._hutchinson(seeds))
        columns = {"x": _lists(x.flatten(1).cpu().numpy()), **self._densities(x.cpu(), log_p, 0.0)}
        if isinstance(self.dpm, UnetDpm):
            columns |= self._middle(x.cpu().float(), rows, "model", None)
        return columns

    def _latents(self, job: TheoryJob, rows: range) -> dict[str, Any]:
        # The last shard is padded with the first images.
        chosen = np.array(rows) % len(self.training.ids)
        labels = None if self.training.classes is None else self.training.classes[chosen]
        return self._middle(self.training.images[chosen], rows, "latents", labels)

    def _middle(self, x0: torch.Tensor, rows: range, stream: str, labels: np.ndarray | None) -> dict[str, Any]:
        """The middle block of x0 at each t as a column `t=…`; each list concatenates the `draws` draws of noise."""
        assert isinstance(self.dpm, UnetDpm)
        columns = {}
        for t in self.spec.theory.timesteps:
            noise = Noise(noise_seeds(self.spec.seed, f"{stream}/{t}", rows), self.dpm.image_shape)
            steps = torch.full((len(x0),), t, dtype=torch.int64, device=self.device)
            alpha_bar = float(self.dpm.alphas_cumprod[t])
            levels = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
            drawn = [
                middle_block(
                    self.dpm, add_noise(x0, noise.normal(), *levels).to(self.device), steps, self._on_device(labels)
                )
                for _ in range(self.spec.theory.draws)
            ]
            columns[f"t={t}"] = _lists(torch.cat(drawn, dim=1).cpu().numpy())
        return columns

    def _hutchinson(self, seeds: list[int]) -> Hutchinson:
        # Shifted seeds, because the seeds themselves already drew the points.
        return Hutchinson([seed + 1 for seed in seeds], self.spec.theory.probes)

    def _densities(self, x: torch.Tensor, log_p: torch.Tensor, epsilon: float) -> dict[str, Any]:
        columns = {"log_p": pa.array(log_p.cpu().numpy())}
        if isinstance(self.dpm, OptimalDpm):
            # The density of the optimal DPM is a Gaussian mixture around the members at every noise level.
            alpha_bar = float(self.dpm.alphas_cumprod[0])
            centres = self.dpm.images.flatten(1).double().cpu().numpy()
            exact = mixture_log_density(x.flatten(1).numpy(), centres, max(epsilon, (1 - alpha_bar) / alpha_bar))
            columns["log_p_exact"] = pa.array(exact)
        return columns

    def _on_device(self, labels: np.ndarray | None) -> torch.Tensor | None:
        return None if labels is None else torch.from_numpy(labels).to(self.device)


def _lists(values: np.ndarray) -> pa.Array:
    rows, columns = values.shape
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), columns) if columns else pa.nulls(rows)

"""What SIDE finds by its classifier and by a LoRA surrogate, per evaluation of the model and per second, from finished audits.

    python -m bench.surrogates runs/digits runs/digits-lora [--rounds 5] [--timed 250]

The audits are of one model and differ in `surrogate`; Random is taken from the first. Seconds are CPU time on one thread for
1,000 samples: the methods draw the same noise in turn, and the median over the rounds counts. `at equal cost` counts the distinct
copies in the first samples of each condition, as many as pay for the same number of evaluations.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

import side_ray
from side_ray.config import Config
from side_ray.config.file import parse_config
from side_ray.diffusion.condition.drawn import Conditioning
from side_ray.diffusion.dpm import Dpm, load_dpm
from side_ray.diffusion.draw import DrawSettings, draw, sampler_of
from side_ray.diffusion.sampler import sample_seed
from side_ray.report.wording import condition_name, interval, percent
from side_ray.results.opened import AuditResult
from side_ray.results.remake import CLASSIFIERS
from side_ray.runs.preflight import guided_steps
from side_ray.storage import open_store
from side_ray.surrogate.guide import open_surrogate

COLUMNS = (
    *("method", "samples", "copies (AMS)", "excess", "distinct copies", "evaluations", "distinct per 10⁶"),
    *("at equal cost", "CPU s per 1,000", "distinct per 100 s"),
)


class Audited:
    """A finished audit with its model.

    Args:
        uri: the run directory.
    """

    def __init__(self, uri: str) -> None:
        self.result: AuditResult = side_ray.open_run(uri)
        self.config: Config = parse_config(dict(self.result.config), uri)
        self.store, self.keys = open_store(uri), self.result.metrics["provenance"]["artifacts"]
        self.model: Dpm = load_dpm(self.store.fetch_dir(self.keys["dpm"]))

    def evaluations(self, condition: Mapping[str, Any]) -> int:
        """Of the model, for one sample."""
        extract = self.config.extract
        second = guided_steps(extract, self.model.schedule, "lora") if condition["method"] == "lora" else 0
        return sampler_of(extract).evaluations * self.config.dpm.evaluations + second

    def seconds(self, condition: Mapping[str, Any], count: int) -> float:
        """CPU time of drawing the first `count` samples."""
        surrogate, name = None, CLASSIFIERS.get(condition["method"])
        if name is not None:
            directory = self.store.fetch_dir(f"{self.keys['surrogate']}/{name}")
            surrogate = open_surrogate(directory, condition["lambda"], model=self.model)
        conditioning = Conditioning.like(self.config.dpm)
        settings = DrawSettings.of(self.config.extract, self.config.cluster.precision, conditioning)
        seeds = [sample_seed(self.config.run.seed, "extract", number) for number in range(count)]
        began = time.process_time()
        draw(self.model, seeds, settings, surrogate)
        return time.process_time() - began

    def distinct(self, condition: Mapping[str, Any], samples: int) -> int:
        """Training images with a copy among the first `samples`, each copy counted for its closest one."""
        found = self.result.matches(condition["method"], condition["lambda"])
        return int(found[found["sample_id"] < samples]["train_id"].nunique())


def rows(audits: list[Audited], rounds: int, count: int) -> Iterator[tuple[str, ...]]:
    first = audits[0].model.schedule.config
    assert all(each.model.schedule.config == first for each in audits)
    found = [
        (audit, condition)
        for audit in audits
        for condition in audit.result.metrics["conditions"]
        if condition["method"] != "random" or audit is audits[0]
    ]
    # λ does not change what a sample costs.
    timed = {condition["method"]: (audit, condition) for audit, condition in found}
    for audit, condition in timed.values():
        audit.seconds(condition, count)
    times: dict[str, list[float]] = {method: [] for method in timed}
    for _ in range(rounds):
        for method, (audit, condition) in timed.items():
            times[method].append(audit.seconds(condition, count) * 1000 / count)
    budget = min(condition["n"] * audit.evaluations(condition) for audit, condition in found)
    for audit, condition in found:
        each, n, cut = audit.evaluations(condition), condition["n"], condition["calibrated"]
        seconds, distinct = statistics.median(times[condition["method"]]), audit.distinct(condition, n)
        yield (
            condition_name(condition),
            f"{n:,}",
            f"{cut['ams_count']:,}: {percent(cut['ams'])} ({interval(cut['ams_ci'])})",
            f"{percent(condition['excess'])} ({interval(condition['excess_ci'])})",
            f"{distinct:,}",
            f"{n * each:,}",
            f"{distinct / (n * each) * 1e6:,.0f}",
            f"{audit.distinct(condition, budget // each):,}",
            f"{seconds:.1f}",
            f"{distinct / (n / 1000 * seconds) * 100:,.0f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run directories of finished audits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timed", type=int, default=250, help="samples that are timed in each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for row in (
        COLUMNS,
        ("---",) * len(COLUMNS),
        *rows([Audited(uri) for uri in options.runs], options.rounds, options.timed),
    ):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

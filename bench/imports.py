"""Seconds until `import side_ray`, `side-ray --help` and a checked config are there, beside a bare Python and `import torch`.

    python -m bench.imports [--rounds 5]

Each is a fresh process; they run in turn, so that a busy machine slows all. The figure is the median of processor seconds.
"""

import argparse
import resource
import statistics
import subprocess
import sys

WAYS = {
    "python": [sys.executable, "-c", ""],
    "import side_ray": [sys.executable, "-c", "import side_ray"],
    "side-ray --help": [sys.executable, "-m", "side_ray.cli", "--help"],
    "read digits.yaml": [
        sys.executable,
        "-c",
        "from side_ray.config.file import load_config; load_config('jobs/configs/digits.yaml')",
    ],
    "import torch": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    """Processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, command in WAYS.items():
            found[name].append(seconds(command))
    for name, values in found.items():
        print(f"{name:18s} {statistics.median(values):6.2f} s of processors")


if __name__ == "__main__":
    main()

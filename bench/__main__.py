"""`make bench`: the cost of each stage beside its simplest alternative, at small sizes."""

import subprocess
import sys

COMMANDS = (
    ["bench.imports"],
    ["bench.train", "--threads", "2"],
    ["bench.sample", "--rounds", "3"],
    ["bench.extract", "--shards", "8", "--rounds", "2"],
    ["bench.score", "--scale", "0.1"],
    ["bench.memory", "--rows", "100000", "--queries", "1000"],
)

for command in COMMANDS:
    print(f"\n== python -m {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)

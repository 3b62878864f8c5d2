"""A Ray cluster of several nodes on this machine, started as on real machines, whose processes can be killed."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.s3 import free_ports

RAY = str(Path(sys.executable).parent / "ray")
TOKEN = "0123456789abcdef0123456789abcdef"


class Nodes:
    """The started nodes. `env`: the environment variables for a driver to reach them, with token authentication. `dashboard`: the
    port of the head's dashboard, which takes jobs; None if it has none."""

    def __init__(self, directory: Path, cpus: int, with_dashboard: bool = False, **env: str) -> None:
        (directory / "token").write_text(TOKEN)
        self.directory, self.cpus = directory, cpus
        self.port = free_ports(1)[0]
        self.env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **env,
        }
        self.env.pop("RAY_ADDRESS", None)
        self.processes: list[psutil.Popen] = []
        self.dashboard = free_ports(1)[0] if with_dashboard else None
        options = ["--head", f"--port={self.port}", f"--include-dashboard={str(with_dashboard).lower()}"]
        options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"] if with_dashboard else []
        self.start(*options, "--temp-dir=/tmp/ray-nodes-test")
        self.env["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        """Start a node: the head, or a worker node that joins it."""
        command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", f"--num-cpus={self.cpus}"]
        command += [f"--object-store-memory={100 * 2**20}", f"--dashboard-agent-listen-port={free_ports(1)[0]}"]
        command += options or [f"--address=127.0.0.1:{self.port}"]
        env = {name: value for name, value in self.env.items() if name != "RAY_ADDRESS"}
        with (self.directory / f"node-{len(self.processes)}.log").open("w") as log:
            self.processes.append(psutil.Popen(command, env=env, stdout=log, stderr=log))
        deadline = time.monotonic() + 120
        while not self.raylet(len(self.processes) - 1):
            assert self.processes[-1].poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def raylet(self, node: int) -> psutil.Process | None:
        """The raylet process of one node; None if it is not running."""
        try:
            children = self.processes[node].children()
        except psutil.NoSuchProcess:
            return None
        return next((each for each in children if each.name() == "raylet"), None)

    def actors(self, *titles: str) -> list[psutil.Process]:
        """Ray's processes on all nodes whose title contains one of `titles`."""
        raylets = [raylet for node in range(len(self.processes)) if (raylet := self.raylet(node))]
        found = []
        for raylet in raylets:
            try:
                found += [
                    each
                    for each in raylet.children(recursive=True)
                    if any(t in " ".join(each.cmdline()) for t in titles)
                ]
            except psutil.NoSuchProcess:
                continue
        return found

    def stop(self) -> None:
        for process in self.processes:
            if process.is_running():
                for child in [*process.children(recursive=True), process]:
                    child.kill()
        psutil.wait_procs(self.processes, 30)


@contextmanager
def ray_nodes(directory: Path, count: int, cpus: int, with_dashboard: bool = False, **env: str) -> Iterator[Nodes]:
    """`count` nodes with `cpus` logical CPUs each, and variables of their environment. All processes end with it."""
    nodes = Nodes(directory, cpus, with_dashboard, **env)
    try:
        for _ in range(count - 1):
            nodes.start()
        yield nodes
    finally:
        nodes.stop()

"""`cluster/slurm.sh` in an allocation of three nodes, all of which are this machine: `srun` and `scontrol` are stand-ins."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.audits import PAGE_ONLY, ROOT
from tests.bruteforce import check
from tests.s3 import free_ports

SCRIPT = ROOT / "cluster" / "slurm.sh"
SRUN = r"""
# Runs a step's tasks, one on each of its nodes, and passes signals on, as srun does.
nodes=(n1 n2 n3)
while [[ $1 == --* ]]; do
    case $1 in
        --nodelist=*) nodes=("${1#*=}") ;;
        --exclude=*) nodes=(n2 n3) ;;
        --ntasks=*) tasks=${1#*=} ;;
        --nodes=*) ;;
        *) echo "srun: unknown option $1" >&2; exit 1 ;;
    esac
    shift
done
[ "${#nodes[@]}" = "$tasks" ] || { echo "srun: $tasks tasks on ${nodes[*]}" >&2; exit 1; }
[ "$SRUN_CPUS_PER_TASK" = 2 ] || { echo "srun: the CPUs of a task are not said" >&2; exit 1; }
trap 'ended=yes; kill $(jobs -p) 2>/dev/null' TERM
for node in "${nodes[@]}"; do
    [ -z "$ended" ] || exit 143
    echo "srun $node $*" >>"$LOG"
    SLURMD_NODENAME=$node "$@" &
done
while wait; [ -n "$(jobs -r)" ]; do :; done
"""
SCONTROL = 'if [ "$1" = show ]; then printf "n1\\nn2\\nn3\\n"; else echo "scontrol $*" >>"$LOG"; fi'
RAY = r"""
echo "ray $SLURMD_NODENAME ${#RAY_AUTH_TOKEN} $RAY_AUTH_MODE" >>"$LOG"
echo "$RAY_AUTH_TOKEN" >>"$LOG.tokens"
case "$*" in
    *--head*) for each; do case $each in --port=*) port=${each#*=} ;; --temp-dir=*) mkdir -p "${each#*=}" ;; esac; done
        [ -z "$BROKEN" ] || exit 1
        exec "$PYTHON" -c "import socket, time; s = socket.create_server(('', $port)); time.sleep(600)" ;;
    *) exec sleep 600 ;;
esac
"""
SIDE_RAY = r"""
echo "side-ray $*" >>"$LOG"
trap 'kill $! 2>/dev/null; exit 143' TERM
# A verb of no work must not end the job before the last worker is started.
for _ in {1..600}; do grep -q "^srun n3 ray start" "$LOG" && break; sleep 0.05; done
sleep "${SECONDS_OF_WORK:-0}" & wait $!
exit "${CODE:-0}"
"""


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "side-ray": SIDE_RAY}.items():
        tool(bin_directory / name, text)
    tool(bin_directory / "hostname", "echo 127.0.0.1 ::1")
    (job,) = free_ports(1)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return env | {
        "PATH": f"{bin_directory}:{env['PATH']}",
        "LOG": str(tmp_path / "log"),
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "2",
        "BROKEN": "",
    }


def tool(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}")
    path.chmod(0o755)


def start(env: dict[str, str], *arguments: str) -> psutil.Popen:
    return psutil.Popen(["bash", str(SCRIPT), *arguments], env=env, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def log(env: dict[str, str]) -> list[str]:
    path = Path(env["LOG"])
    return path.read_text().splitlines() if path.exists() else []


def leftovers(env: dict[str, str]) -> list[psutil.Process]:
    """Processes of the allocation that are still there."""
    found = []
    for each in psutil.process_iter():
        try:
            found += [each] if each.environ().get("LOG") == env["LOG"] and each.status() != "zombie" else []
        except psutil.Error:
            continue
    return found


def ended(process: psutil.Popen, env: dict[str, str]) -> str:
    """What the script wrote to stderr, once it has ended; nothing of it is left."""
    _, told = process.communicate(timeout=60)
    assert leftovers(env) == []
    assert not Path(f"/tmp/ray-{env['SLURM_JOB_ID']}").exists()
    return str(told)


@pytest.mark.long
@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_verb_runs_on_all_nodes_and_its_exit_code_is_that_of_the_job(allocation, code):
    process = start({**allocation, "CODE": str(code)}, "audit", "a b.yaml", "cluster.actors=[1,8]")
    ended(process, allocation)
    assert process.returncode == code
    lines = log(allocation)
    port = 20000 + int(allocation["SLURM_JOB_ID"]) % 20000
    assert [line for line in lines if line.startswith("side-ray")] == [
        f"side-ray audit a b.yaml cluster.actors=[1,8] cluster.address=127.0.0.1:{port}"
    ]
    # The workers may be ended before they have begun.
    assert "ray n1 64 token" in lines
    assert {line.split()[1] for line in lines if "ray start" in line} == {"n1", "n2", "n3"}
    assert len(set(Path(f"{allocation['LOG']}.tokens").read_text().split())) == 1
    assert not any(token in "\n".join(lines) for token in Path(f"{allocation['LOG']}.tokens").read_text().split())
    assert "--num-cpus=2 --head" in "\n".join(lines)


@pytest.mark.long
@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_a_signal_stops_the_verb_in_order_and_the_time_limit_requeues_the_job(allocation, number, requeued):
    process = start({**allocation, "SECONDS_OF_WORK": "600"}, "audit", "audit.yaml")
    deadline = time.monotonic() + 60
    while not any(line.startswith("side-ray") for line in log(allocation)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    ended(process, allocation)
    assert process.returncode == 143
    assert (f"scontrol requeue {allocation['SLURM_JOB_ID']}" in log(allocation)) is requeued


@pytest.mark.long
def test_a_cluster_that_does_not_start_is_told(allocation):
    process = start({**allocation, "BROKEN": "yes"}, "audit", "audit.yaml")
    assert "slurm.sh: Ray did not start on n1" in ended(process, allocation)
    assert process.returncode == 1
    assert not any(line.startswith("side-ray") for line in log(allocation))


def test_without_a_config_nothing_starts(allocation):
    process = start(allocation, "audit")
    assert ended(process, allocation).startswith("usage: sbatch")
    assert process.returncode == 2
    assert log(allocation) == []


@pytest.mark.slow
@pytest.mark.ray
def test_an_audit_runs_in_an_allocation_with_ray(allocation, tmp_path):
    own = Path(sys.executable).parent
    ray = f'exec "{own}/ray" "$@" --object-store-memory={100 * 2**20}'
    # Nodes on one machine must not share this port.
    ray += f' --dashboard-agent-listen-port=$("{sys.executable}" -c "{PORT}")'
    tool(tmp_path / "bin" / "ray", ray)
    tool(tmp_path / "bin" / "side-ray", f'exec "{sys.executable}" -m side_ray.cli "$@"')
    env = {**allocation, "PYTHONPATH": str(ROOT)}
    shutil.copy(ROOT / "jobs" / "configs" / "digits_tiny.yaml", tmp_path / "audit.yaml")
    overrides = [f"run.uri={tmp_path / 'run'}", "cluster.actors=[2,3]", *PAGE_ONLY]
    overrides += ["dpm.kind=optimal", "extract.methods=[random]"]  # trainings take long to start
    process = psutil.Popen(
        ["bash", str(SCRIPT), "audit", str(tmp_path / "audit.yaml"), *overrides],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=500)
    finally:
        for each in leftovers(env):
            each.kill()
    assert process.returncode == 0, printed
    assert "verdict: " in printed
    assert check(tmp_path / "run") == []
    assert not Path(f"/tmp/ray-{env['SLURM_JOB_ID']}").exists()


PORT = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"

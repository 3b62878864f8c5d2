#!/bin/bash
# Starts a Ray cluster in a Slurm allocation and runs a verb of side-ray on all of its nodes.
#
#   sbatch cluster/slurm.sh audit jobs/configs/digits.yaml run.uri=/shared/runs/digits cluster.gpus=1 'cluster.actors=[1,8]'
#
# Activate the environment that has side-ray before sbatch, or at the top of this file. The run directory must be s3:// or a path
# that all nodes mount. Submitted again, the same command resumes. At the time limit the job stops in order and requeues itself.
#SBATCH --job-name=side-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

set -euo pipefail
[ $# -ge 2 ] || { echo "usage: sbatch $0 VERB CONFIG [SECTION.KEY=VALUE]..." >&2; exit 2; }

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# The batch script runs on the first node, so the head does too.
head=${nodes[0]} workers=$((${#nodes[@]} - 1))
ip=$(hostname --ip-address | awk '{print $1}')
# Of the job's own, because a node may be shared with other jobs.
port=$((20000 + SLURM_JOB_ID % 20000)) temporary=/tmp/ray-$SLURM_JOB_ID
address=$ip:$port

# Without a token, anyone who reaches Ray's ports can run code. It goes to the nodes in the environment, not in a command line.
RAY_AUTH_TOKEN=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# srun does not take this from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

steps=() driver='' signalled='' requeue=''
# shellcheck disable=SC2329 # called by a trap
clean() {
    trap '' TERM INT USR1
    if [ ${#steps[@]} -gt 0 ]; then
        kill "${steps[@]}" 2>/dev/null || true
        wait "${steps[@]}" || true
    fi
    srun --nodes=${#nodes[@]} --ntasks=${#nodes[@]} rm -rf "$temporary" || true
    [ -z "$requeue" ] || scontrol requeue "$SLURM_JOB_ID"
}
# shellcheck disable=SC2329
stop() {
    signalled=yes
    [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap clean EXIT
trap stop TERM INT
trap 'requeue=yes; stop' USR1

start=(ray start --block --num-cpus="$SRUN_CPUS_PER_TASK")
srun --nodes=1 --ntasks=1 --nodelist="$head" "${start[@]}" --head --node-ip-address="$ip" --port="$port" \
    --include-dashboard=false --temp-dir="$temporary" &
steps+=($!)
for (( attempt = 0; ; attempt++ )); do
    if (: <>"/dev/tcp/$ip/$port") 2>/dev/null; then break; fi
    [ -z "$signalled" ] || exit 143
    if [ "$attempt" -ge 600 ] || ! kill -0 "${steps[0]}" 2>/dev/null; then
        echo "slurm.sh: Ray did not start on $head; its messages are above" >&2
        exit 1
    fi
    sleep 0.2
done
if [ "$workers" -gt 0 ]; then
    srun --nodes="$workers" --ntasks="$workers" --exclude="$head" "${start[@]}" --address="$address" &
    steps+=($!)
fi

side-ray "$@" cluster.address="$address" &
driver=$!
[ -z "$signalled" ] || stop
code=0
# A signal ends `wait`, not the driver.
while signalled=''; wait "$driver" && code=0 || code=$?; [ -n "$signalled" ] && [ "$code" -gt 128 ]; do :; done
[ "$code" -gt 128 ] || requeue=''
exit "$code"

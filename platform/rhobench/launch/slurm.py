"""SLURM batch script: a job that starts a Ray cluster on its nodes and runs the experiment on it."""

from __future__ import annotations

import math
import shlex

from rhobench.config import ConfigError
from rhobench.launch.resources import LaunchPlan

SECONDS_BEFORE_LIMIT = 120
"""Time before the limit of the job at which SLURM sends SIGUSR1; a sweep ends within 30 seconds of it."""


def slurm(plan: LaunchPlan, hours: float) -> str:
    """Return the script for ``sbatch`` as text.

    Args:
        plan: experiment and nodes.
        hours: time limit of the job.

    Raises:
        ConfigError: the time limit is not a positive number.
    """
    if not 0 < hours < math.inf:
        raise ConfigError(f"--hours {hours:g} is not allowed: give a positive number.")
    nodes = plan.nodes
    directives = [
        f"--job-name={plan.name}",
        f"--nodes={nodes.count}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={nodes.cpus}",
        # SLURM takes whole numbers only.
        f"--mem={math.ceil(nodes.memory_gib * 1024)}M",
        f"--time={math.ceil(hours * 60)}",
        "--requeue",
        f"--signal=B:USR1@{SECONDS_BEFORE_LIMIT}",  # to the script (B), not to the processes of Ray
        "--open-mode=append",  # a requeued job would otherwise overwrite its log
        "--output=%x-%j.log",
    ]
    directives += [f"--gpus-per-node={nodes.gpus}"] if nodes.gpus else []
    comments = [
        *plan.header(),
        "Submit it with `sbatch --partition=PARTITION --account=ACCOUNT FILE`. Submitting or requeueing it again",
        "continues the experiment: finished runs in the store are not repeated. Before its time limit, the job has its",
        "trainings write checkpoints and requeues itself.",
        "Add --exclusive, because other jobs on a node change the measured latency.",
        "ray and rhobench must be on the PATH of the submitting shell, and installed there on every node.",
    ]
    header = "\n".join([*(f"#SBATCH {d}" for d in directives), *(f"# {line}" for line in comments)])
    # Inserted afterwards, because shlex.join would quote the shell variable.
    run = shlex.join(plan.command("ADDRESS")).replace(" ADDRESS ", ' "$address" ', 1)
    return f"""#!/bin/bash
{header}
set -euo pipefail

# A token for this job only, in a file that every node can access and only its owner can read.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/slurm-$SLURM_JOB_ID.token"
unset RAY_AUTH_TOKEN
rm -f "$RAY_AUTH_TOKEN_PATH"
rhobench cluster token

ray_steps=()
finish() {{
    if ((${{#ray_steps[@]}})); then kill "${{ray_steps[@]}}" 2>/dev/null || true; fi
    rm -f "$RAY_AUTH_TOKEN_PATH"
}}
trap finish EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# This script runs on the first node, which is the head node and also trains. Set HEAD_IP if the node has several
# networks and the first address is not the right one.
head_ip="${{HEAD_IP:-$(hostname -I | cut -d' ' -f1)}}"
# The port depends on the job, so that jobs on the same node do not collide.
address="$head_ip:$((20000 + SLURM_JOB_ID % 20000))"
resources=(--num-cpus={nodes.cpus} --num-gpus={nodes.gpus} --disable-usage-stats --block)

srun --nodes=1 --ntasks=1 --cpus-per-task={nodes.cpus} --nodelist="${{nodes[0]}}" \\
    ray start --head --node-ip-address="$head_ip" --port="${{address##*:}}" --dashboard-host=127.0.0.1 \\
    "${{resources[@]}}" &
ray_steps+=($!)
# The other nodes can only join a head that answers.
rhobench cluster wait 1 --address "$address"

if ((${{#nodes[@]}} > 1)); then
    srun --nodes=$((${{#nodes[@]}} - 1)) --ntasks=$((${{#nodes[@]}} - 1)) --cpus-per-task={nodes.cpus} \\
        --exclude="${{nodes[0]}}" ray start --address="$address" "${{resources[@]}}" &
    ray_steps+=($!)
fi
rhobench cluster wait "${{#nodes[@]}}" --address "$address"

{run} &
driver=$!
requeue=0
trap 'requeue=1; kill -USR1 "$driver"' USR1
trap 'kill -TERM "$driver"' TERM
while true; do  # a signal ends `wait`, but not yet the command
    status=0
    wait "$driver" || status=$?
    kill -0 "$driver" 2>/dev/null || break
done
if ((requeue && status == 128 + $(kill -l USR1))); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""

"""Script that submits an experiment to a running Ray cluster with ``ray job submit``."""

from __future__ import annotations

import shlex

from rhobench.launch.resources import LaunchPlan


def job(plan: LaunchPlan) -> str:
    """Return the script as text; Ray's command line passes every argument on unchanged."""
    header = [
        *plan.header(),
        "Run it where the cluster's dashboard is reachable: on the head node, or through",
        "`ssh -L 8265:127.0.0.1:8265 HEAD`.",
        "Set RAY_AUTH_TOKEN_PATH if the cluster's token is not in ~/.ray/auth_token.",
    ]
    comments = "".join(f"# {line}\n" for line in header)
    return f"""#!/bin/bash
{comments}set -euo pipefail

export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH="${{RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}}"
if [[ -z "${{RAY_AUTH_TOKEN:-}}" && ! -r "$RAY_AUTH_TOKEN_PATH" ]]; then
    echo "There is no Ray token at $RAY_AUTH_TOKEN_PATH: copy the cluster's token there, with mode 0600." >&2
    exit 2
fi

# The entrypoint only schedules the runs, so it reserves no CPU on the head node.
exec ray job submit --address "${{RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}}" -- {shlex.join(plan.command("auto"))}
"""

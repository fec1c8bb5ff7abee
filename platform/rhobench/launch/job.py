"""A script that submits the experiment to a Ray cluster that is running: ``ray job submit``."""

from __future__ import annotations

import shlex

from rhobench.launch.resources import Plan


def job(plan: Plan) -> str:
    """The script; Ray's command line hands on each argument as it is."""
    about = [
        *plan.about(),
        "Run it where the cluster's dashboard is reached: on its head, or through `ssh -L 8265:127.0.0.1:8265 HEAD`.",
        "RAY_AUTH_TOKEN_PATH names the file with the cluster's token, if that is not ~/.ray/auth_token.",
    ]
    comments = "".join(f"# {line}\n" for line in about)
    return f"""#!/bin/bash
{comments}set -euo pipefail

export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH="${{RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}}"
if [[ -z "${{RAY_AUTH_TOKEN:-}}" && ! -r "$RAY_AUTH_TOKEN_PATH" ]]; then
    echo "There is no token in $RAY_AUTH_TOKEN_PATH: copy the cluster's there, with mode 0600." >&2
    exit 2
fi

# The job itself only directs the runs, on the head: it needs no core there.
exec ray job submit --address "${{RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}}" -- {shlex.join(plan.command("auto"))}
"""

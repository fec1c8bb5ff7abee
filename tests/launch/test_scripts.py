"""Scripts for SLURM and Ray jobs: the command survives every shell, and the token is not exposed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from plans import EVIL, EVIL_WITH_SPACES, PLAIN, SPACES, plan

from rhobench.config import ConfigError
from rhobench.launch import job, slurm

ALL = [PLAIN, SPACES, EVIL, EVIL_WITH_SPACES]

SRUN = """
while [[ "$1" == -* ]]; do shift; done
exec "$@"
"""

RAY = f'exec "{sys.executable}" -m ray.scripts.scripts "$@"'

RHOBENCH = f'exec "{sys.executable}" -c "from rhobench.cli import main; main()" "$@"'

RECORDS = """
printf '%s\\0' rhobench "$@" >> "$ARGUMENTS"
[[ "$1 $2" != "cluster token" ]] || { umask 077; mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"; \
    echo secret > "$RAY_AUTH_TOKEN_PATH"; }
"""
"""Records its arguments, and creates a token when asked to."""

RAY_JOB_SUBMIT = f'''
"{sys.executable}" - "$@" <<'END'
import subprocess, sys
import ray
from click.testing import CliRunner
from ray.dashboard.modules.job import cli

class Client:
    def get_version(self):
        return ray.__version__
    def get_address(self):
        return "http://127.0.0.1:8265"
    def submit_job(self, *, entrypoint, **others):
        subprocess.run(entrypoint, shell=True, check=True)
        return "1"

cli._get_sdk_client = lambda *arguments, **others: Client()
result = CliRunner().invoke(cli.submit, [*sys.argv[3:5], "--no-wait", *sys.argv[5:]], catch_exceptions=False)
sys.exit(result.exit_code)
END
'''
"""Ray's own command line with a client that does what the head would do: run the entrypoint in a shell."""


def commands(folder: Path, **texts: str) -> str:
    """Create commands, and return a PATH on which they come first."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    file = folder / "script.sh"
    file.write_text(script)
    env = os.environ | {"HOME": str(folder), "ARGUMENTS": str(folder / "arguments")} | environment
    env.pop("RAY_AUTH_TOKEN_PATH", None)
    return subprocess.run(["bash", file], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=280)


def recorded_arguments(folder: Path) -> list[str]:
    return (folder / "arguments").read_text().split("\0")[:-1]


@pytest.mark.parametrize("values", ALL)
def test_scripts_are_valid_bash(values: tuple[str, ...]) -> None:
    for script in (slurm(plan(*values, gpus=2), 1.5), job(plan(*values))):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "-"], input=script, text=True, check=True)


def test_slurm_script_requests_the_resources_of_the_runs() -> None:
    script = slurm(plan(*PLAIN, gpus=2), 1.5)
    directives = {line.split()[1] for line in script.splitlines() if line.startswith("#SBATCH ")}
    assert {"--nodes=2", "--cpus-per-task=3", "--gpus-per-node=2", "--mem=10240M", "--time=90"} <= directives
    assert "--dashboard-host=127.0.0.1" in script
    assert "--disable-usage-stats" in script
    with pytest.raises(ConfigError, match="--hours nan"):
        slurm(plan(*PLAIN), float("nan"))


@pytest.mark.parametrize("values", ALL)
def test_slurm_script_runs_the_command_unchanged_and_removes_the_token(tmp_path: Path, values: tuple[str, ...]) -> None:
    # The nodes start concurrently, so `rhobench cluster wait` has to take a moment.
    waits = f'[[ "$1 $2" != "cluster wait" ]] || sleep 1\n{RECORDS}'
    path = commands(
        tmp_path / "bin", srun='echo "$@" >> sruns; exec sleep 60', scontrol="printf 'n1\\nn2\\n'", rhobench=waits
    )
    done = run(
        slurm(plan(*values), 1), tmp_path, PATH=path, SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n[1-2]", HEAD_IP="10.9.8.7"
    )
    assert done.returncode == 0, done.stderr
    arguments = recorded_arguments(tmp_path)
    start = arguments.index("run") - 1
    assert arguments[start:] == plan(*values).command("10.9.8.7:20007")
    assert arguments[:start].count("wait") == 2
    sruns = (tmp_path / "sruns").read_text()
    assert "ray start --head --node-ip-address=10.9.8.7 --port=20007" in sruns
    assert "--exclude=n1 ray start --address=10.9.8.7:20007" in sruns
    assert "secret" not in done.stdout + done.stderr + sruns
    assert not list((tmp_path / ".ray").iterdir())
    assert not (tmp_path / "pwned").exists()


def test_slurm_script_requeues_itself_before_its_time_limit(tmp_path: Path) -> None:
    """SLURM sends SIGUSR1 to the script, which passes it on to the command and waits for its end."""
    runs = (
        'if [[ "$1" == run ]]; then\n'
        '    trap "sleep 1; echo saved >> saved; exit 138" USR1\n'
        "    kill -USR1 $PPID\n"
        "    while true; do sleep 0.1; done\n"
        "fi"
    )
    path = commands(
        tmp_path / "bin",
        srun="exec sleep 60",
        scontrol='if [[ "$1" == requeue ]]; then echo "$2" >> requeued; else echo n1; fi',
        rhobench=runs,
    )
    script = slurm(plan(*PLAIN), 1)
    assert "#SBATCH --signal=B:USR1@120" in script
    done = run(script, tmp_path, PATH=path, SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n1", HEAD_IP="10.9.8.7")
    assert done.returncode == 138, done.stderr
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert (tmp_path / "requeued").read_text() == "7\n"


@pytest.mark.parametrize("values", ALL)
def test_ray_job_submit_passes_the_command_unchanged(tmp_path: Path, values: tuple[str, ...]) -> None:
    path = commands(tmp_path / "bin", ray=RAY_JOB_SUBMIT, rhobench=RECORDS)
    done = run(job(plan(*values)), tmp_path, PATH=path, RAY_AUTH_TOKEN="secret")
    assert done.returncode == 0, done.stderr
    assert recorded_arguments(tmp_path) == plan(*values).command("auto")
    assert not (tmp_path / "pwned").exists()


def test_job_without_a_token_is_not_submitted(tmp_path: Path) -> None:
    done = run(job(plan(*PLAIN)), tmp_path, PATH=commands(tmp_path / "bin", ray="exit 9"), RAY_AUTH_TOKEN="")
    assert done.returncode == 2
    assert "There is no Ray token at" in done.stderr


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, because the names of Ray's sockets are limited."""
    folder = Path(tempfile.mkdtemp(prefix="rb"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
def test_slurm_script_forms_one_cluster_of_its_nodes(tmp_path: Path, short: Path) -> None:
    """This machine mocks two SLURM nodes: Ray starts a head and a worker, and a task runs on each of them."""
    task = tmp_path / "task.py"
    task.write_text(
        "import json, sys\n"
        "from rhobench.cluster.session import ray_session\n"
        "with ray_session(sys.argv[1]) as cluster:\n"
        "    import ray\n"
        "    where = ray.remote(num_cpus=3)(lambda: ray.get_runtime_context().get_node_id())\n"
        "    nodes = {ray.get(where.options(label_selector={'ray.io/node-id': n['NodeID']}).remote(), timeout=90)\n"
        "             for n in ray.nodes()}\n"
        "    print(json.dumps([cluster.nodes, cluster.cpus, len(nodes), cluster.access]))\n"
    )
    runs = f'if [[ "$1" == run ]]; then exec "{sys.executable}" "{task}" "$4"; fi\n{RHOBENCH}'
    path = commands(tmp_path / "bin", srun=SRUN, scontrol="printf 'n1\\nn2\\n'", ray=RAY, rhobench=runs)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1] % 10000
    done = run(
        slurm(plan(*PLAIN), 1),
        tmp_path,
        PATH=path,
        SLURM_JOB_ID=str(number),
        SLURM_JOB_NODELIST="n[1-2]",
        HEAD_IP="127.0.0.1",
        RAY_TMPDIR=str(short),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("["))
    nodes, cpus, reached, access = json.loads(line)
    assert (nodes, cpus, reached) == (2, 6, 2)
    token = tmp_path / ".ray" / f"slurm-{number}.token"
    assert access == f"Ray at 127.0.0.1:{20000 + number}, token of {token}"
    assert not token.exists()

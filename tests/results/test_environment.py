from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from rhobench.results.environment import _git_state, describe_environment


def test_environment_names_versions_and_machine_but_neither_host_nor_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CLOUD_TOKEN", "xyzzy-secret")
    environment = describe_environment()
    text = json.dumps(environment)
    assert environment["packages"]["numpy"][0].isdigit()
    assert environment["cpu"]
    assert 1 <= environment["cpu_cores"] <= (os.cpu_count() or 1)
    assert environment["variables"]["OMP_NUM_THREADS"] == "3"
    assert "xyzzy-secret" not in text
    assert socket.gethostname() not in environment.values()


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True)


def test_every_change_of_the_source_changes_the_diff_hash(tmp_path: Path) -> None:
    assert _git_state(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text("")
    git(tmp_path, "init")
    assert _git_state(tmp_path) is None, "a repository without a commit has no state to name"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")

    states = [_git_state(tmp_path)]
    for name in ("pyproject.toml", "new.py"):
        (tmp_path / name).write_text("a")
        states.append(_git_state(tmp_path))
    (tmp_path / "new.py").write_text("b")
    states.append(_git_state(tmp_path))

    commits = {state["commit"] for state in states if state}
    hashes = [state["diff_sha256"] for state in states if state]
    assert len(commits) == 1
    assert hashes[0] is None
    assert len(set(hashes)) == len(hashes) == 4


def test_an_installed_copy_does_not_report_the_repository_around_it(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert _git_state(tmp_path) is None

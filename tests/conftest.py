"""How tests share the machine, an S3 server for stores in buckets, and simulated detectors."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from headless_chromium import CHROMIUM, chromium
from hypothesis import settings

SERVER = "import sys; from moto.server import main; main(sys.argv[1:])"
AWS = {
    "AWS_ACCESS_KEY_ID": "key-of-a-test",
    "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
    "AWS_EC2_METADATA_DISABLED": "true",
}

SIMULATION = Path(__file__).parents[1] / "benchmarks" / "interval_coverage.py"


# On a shared machine, any example may take longer than Hypothesis allows by default.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

# By default Ray lowers the priority of its workers, which would starve next to the other tests.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray run one after another when pytest-xdist runs several tests at once; some need a browser.

    Each of the former starts a cluster that believes it has all cores, and some watch the processes and the load of the
    host.
    """
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium for all tests of a process, in which Playwright can be started only once."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with chromium() as browser:
        yield browser


@pytest.fixture(autouse=True)
def process_settings() -> Iterator[None]:
    """Undo what ``configure_process`` changes for good: a run has its own process, tests share one."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """HOST:PORT of an S3 server of its own on this machine, whose credentials are in the environment."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            assert server.poll() is None, "the S3 server ended"
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3_url(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """URLs of prefixes in a new bucket."""
    from pyarrow import fs

    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    for name in list(os.environ):
        if name.lower() in {"http_proxy", "https_proxy", "all_proxy", "aws_profile", "aws_session_token"}:
            monkeypatch.delenv(name)
    bucket = f"bench-{uuid.uuid4().hex[:8]}"
    server = {"endpoint_override": s3_address, "scheme": "http", "region": "us-east-1"}
    fs.S3FileSystem(**server, allow_bucket_creation=True).create_dir(bucket)
    options = "&".join(f"{name}={value}" for name, value in server.items())
    return lambda prefix: f"s3://{bucket}/{prefix}?{options}"


@pytest.fixture(scope="session")
def simulation() -> ModuleType:
    """The simulated detectors of ``benchmarks/interval_coverage.py``."""
    spec = importlib.util.spec_from_file_location("interval_coverage", SIMULATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["interval_coverage"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module

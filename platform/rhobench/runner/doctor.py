"""`rhobench doctor`: test the backends of deformable attention, the GPU, Ray and the browser of this machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import torch

from rhobench.cluster.address import ClusterError
from rhobench.cluster.session import check_local_cluster
from rhobench.model.precision import choose_precision
from rhobench.ops import doctor
from rhobench.ops.doctor import Finding

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Executables that the tests of the pages can use."""


def _precision() -> Finding:
    choice = choose_precision("cuda" if torch.cuda.is_available() else "cpu")
    details = {"precision": choice.precision, "speedup": choice.speedup}
    return Finding(name="precision", works=True, message=str(choice), required=False, details=details)


def examine() -> Iterator[Finding]:
    """Run all tests and yield their findings, each when its test ends."""
    yield _precision()
    yield from doctor.examine()
    yield _test_ray()
    yield _test_browser()


def _test_ray() -> Finding:
    """Start a local cluster, import rhobench in a worker, and stop the cluster."""
    started = time.perf_counter()
    try:
        answer = check_local_cluster()
    except ClusterError as error:
        return Finding(name="Ray", works=False, message=str(error))
    seconds = time.perf_counter() - started
    steps = f"cluster started, worker imported rhobench, cluster stopped in {seconds:.1f} s"
    message = f"{answer['ray']}: {steps}; {answer['access']}"
    return Finding(name="Ray", works=True, message=message, details=answer | {"seconds": seconds})


def _test_browser() -> Finding:
    """Look for a browser for the tests of the pages."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    message = found or "no Chromium on the PATH: pages open in any browser, but their tests are skipped"
    return Finding(name="browser", works=found is not None, required=False, message=message)

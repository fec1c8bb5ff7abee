from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # import-mode=importlib puts no folder on the path, and `cases` lies beside the tests

from cases import Case  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", metavar="DIR", help="run every parity case (NAME.npz, NAME.json) of DIR instead")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    # With `pytest` alone this file is read after the command line, so the option may not exist.
    folder = Path(metafunc.config.getoption("--golden", None) or HERE / "golden")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise pytest.UsageError(f"--golden {folder} holds no parity case: it needs pairs NAME.npz and NAME.json.")
    # The scope groups the tests of a case, so that its result is computed once and freed before the next.
    metafunc.parametrize("case", [Case(file) for file in files], ids=lambda case: case.file.stem, scope="session")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)

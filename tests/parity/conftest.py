from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # import-mode=importlib does not add the test folder, which contains `cases`

from cases import Case  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", metavar="DIR", help="run the parity cases (NAME.npz, NAME.json) in DIR instead of the included ones"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    # Without a path argument pytest loads this file after parsing the command line, so the option may not exist.
    folder = Path(metafunc.config.getoption("--golden", None) or HERE / "golden")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise pytest.UsageError(
            f"--golden {folder} contains no parity case: give a folder with pairs NAME.npz and NAME.json."
        )
    # The scope groups the tests of a case, so that its result is computed once and freed before the next.
    metafunc.parametrize("case", [Case(file) for file in files], ids=lambda case: case.file.stem, scope="session")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)

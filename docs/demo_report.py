"""The report pages that are part of the site, written from small stores while it is built.

The demo's page shows ``docs/demo-store``: the records and pictures that ``rhobench run demo`` left, without weights and
checkpoints. The page of a larger store shows simulated runs and exists to be clicked through.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rhobench.dashboards import write_report
from rhobench.results import Store

DOCS = Path(__file__).parent
DEMO_STORE = DOCS / "demo-store"
SIMULATED_RUNS = 500


def pages() -> dict[str, str]:
    """The pages by their path on the site."""
    with tempfile.TemporaryDirectory() as folder:
        demo = write_report(Store(DEMO_STORE), Path(folder) / "demo.html")
        simulated = write_report(_simulated(Path(folder) / "simulated"), Path(folder) / "simulated.html")
        return {f"reports/{page.name}": page.read_text(encoding="utf-8") for page in (demo, simulated)}


def _simulated(folder: Path) -> Store:
    sys.path.insert(0, str(DOCS.parent / "benchmarks"))
    from store_scale import make_store

    make_store(folder, SIMULATED_RUNS)
    return Store(folder)

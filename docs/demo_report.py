"""The report pages that are part of the site, written from small stores while it is built.

    python docs/demo_report.py STORE

The demo's page shows ``docs/demo-store``: the records, pictures and matches that ``rhobench run demo`` left, without
weights. The command replaces it by those of another store; ``python docs/draw_figures.py`` then draws the figures anew.
The page of a larger store shows simulated runs and exists to be clicked through.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rhobench.dashboards import write_report
from rhobench.results import Store, write_record

DOCS = Path(__file__).parent
DEMO_STORE = DOCS / "demo-store"
KEPT = ("pictures.json", "matches-*.npz")
"""Files of a run that a report page reads, besides its record."""
OF_THE_MACHINE = ("argv",)
"""Parts of the environment in a record that hold paths of the machine."""
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


def replace_demo_store(store: Path) -> None:
    """Replace ``docs/demo-store`` by the runs of ``store``.

    Raises:
        ValueError: the store has no runs.
    """
    records = Store(store).records()
    if not records:
        raise ValueError(f"There are no runs in {store}: give the folder that `rhobench run demo` wrote to.")
    shutil.rmtree(DEMO_STORE, ignore_errors=True)
    for record in records:
        kept = DEMO_STORE / "runs" / record.run_id
        kept.mkdir(parents=True)
        environment = {name: value for name, value in record.environment.items() if name not in OF_THE_MACHINE}
        write_record(kept, replace(record, environment=environment))
        for pattern in KEPT:
            for file in (store / "runs" / record.run_id).glob(pattern):
                shutil.copy(file, kept)


if __name__ == "__main__":
    replace_demo_store(Path(sys.argv[1]))

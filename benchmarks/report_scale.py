"""Time to write the report of a store of N runs, and with --draw the time until a browser has drawn it.

    python benchmarks/report_scale.py N... [--draw] [--dir DIR] [--json]

The stores are those of store_scale.py: two points a run, and every run has a setting of its own. Processor time counts
reading the store and writing the page in a new process, without imports. Drawing is measured in headless Chromium from
the start of the navigation until every figure is drawn, and the zoom from a relayout of the largest figure. The redraw
is that of the live view without the transfer, as it is and after a run was added.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from store_scale import make_store

from rhobench.dashboards import write_report
from rhobench.dashboards.live import Results, redraw
from rhobench.results import Store

ZOOM = """async () => {
    const plot = document.querySelector('#plot-gflops'), [low, high] = plot._fullLayout.xaxis.range;
    const started = performance.now();
    await Plotly.relayout(plot, { 'xaxis.range': [low + (high - low) / 4, high - (high - low) / 4] });
    return (performance.now() - started) / 1000;
}"""


def write(folder: Path) -> dict[str, float]:
    """Write the report of the store in this process and measure it."""
    started, cpu_started = time.perf_counter(), time.process_time()
    page = write_report(Store(folder), folder / "report.html")
    return {
        "seconds": time.perf_counter() - started,
        "processor_s": time.process_time() - cpu_started,
        "megabytes": page.stat().st_size / 1e6,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def follow(folder: Path) -> dict[str, float]:
    """Time of a redraw of the live view: as it is, and after one run has been added."""
    store = Store(folder)
    results = Results(store)

    def seconds() -> float:
        started = time.perf_counter()
        redraw(results, "gflops", "ap", "curves", "", dark=False)
        return time.perf_counter() - started

    seconds()
    again = seconds()
    store.write(replace(store.records()[0], run_id="one-more"))
    return {"redraw_s": again, "redraw_after_a_run_s": seconds()}


def draw(page: Path) -> dict[str, float]:
    """Time until the page is drawn, and time of a zoom."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
    from headless_chromium import chromium

    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        started = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_function("window.__ready", timeout=300_000)
        drawn = time.perf_counter() - started
        zoomed = tab.evaluate(ZOOM)
    return {"drawn_s": drawn, "zoom_s": zoomed}


def measure(runs: int, parent: Path | None, *, drawn: bool) -> dict[str, Any]:
    """Create a store, write its report in a new process, draw it, redraw the live view, and delete everything."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="report-scale-", dir=parent))
    try:
        make_store(folder, runs)
        command = [sys.executable, __file__, "--write", str(folder)]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return {"runs": runs} | result | (draw(folder / "report.html") if drawn else {}) | follow(folder)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure every size and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="*", default=[200, 2000], metavar="N")
    parser.add_argument("--draw", action="store_true", help="also draw the pages in Chromium")
    parser.add_argument("--dir", type=Path, help="parent folder of the stores; default: the folder for temporary files")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        print(json.dumps(write(arguments.write)))
        return
    results = [measure(runs, arguments.dir, drawn=arguments.draw) for runs in arguments.runs]
    for result in results:
        print(
            "  ".join(f"{name} {value:,.2f}" if name != "runs" else f"{value:,} runs" for name, value in result.items())
        )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()

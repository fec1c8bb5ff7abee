"""A metric is one row of ``rhobench.config.metrics``: everything else takes it from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
from pathlib import Path
from rhobench.config import metrics

row = metrics.Metric(name="ar100", label="AR", better="higher", scale=100, must_agree=("dataset",),
                     coco=metrics.CocoStat("bbox", 8))
metrics.METRICS[row.name] = row

from rich.console import Console
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.dashboards import front_table, write_report
from rhobench.measure.accuracy import score
from report_page import embedded
from rhobench.results import Point, Record, Store, by_configuration, read_record

folder = Path(sys.argv[1])
images = [{"id": 1, "width": 200, "height": 200, "file_name": "1.png"}]
boxes = [[10, 10, 40, 40], [100, 100, 50, 50], [10, 100, 60, 60]]
annotations = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
               for i, box in enumerate(boxes, start=1)]
truth = folder / "truth.json"
truth.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": annotations}))
detections = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes[:2]]
accuracy = score(truth, detections, [1])

store = Store(folder / "store")
point = Point(rho=0.3, accuracy=accuracy.metrics, gflops=10.0)
config = to_dict(RunConfig(experiment="e"))
store.write(Record(run_id="run", experiment="e", status="completed", config=config, points=[point]))
recorded = read_record(store.run_dir("run") / "record.json").points[0].accuracy
frame = store.frame()
front = by_configuration(frame, "gflops", "ar100")
Console().print(front_table(frame, "gflops", "ar100"))
shown = embedded(write_report(store, folder / "report.html"))["data"]
values = [accuracy.metrics["ar100"], recorded["ar100"], frame["ar100"][0], front["ar100"][0]]
column = shown["labels"]["ar100"] == "AR" and "ar100" in shown["table"]
print(json.dumps({"values": values, "on_front": bool(front["on_front"][0]), "column": column}))
"""


def test_a_new_row_reaches_scores_records_frames_fronts_tables_and_pages(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    found = json.loads(last)
    assert [round(value, 6) for value in found["values"]] == [0.666667] * 4, "two of the three objects are detected"
    assert found["on_front"]
    assert found["column"]
    assert "AR ↑" in "\n".join(table)
    assert "66.7" in "\n".join(table)

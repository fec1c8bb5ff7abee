"""Untrusted records: sound ones are read, the others are reported, and nothing else happens."""

from __future__ import annotations

import ast
import json
import os
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_page import column, embedded
from rich.console import Console

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.dashboards import front_table, write_report
from rhobench.results import Point, Record, RecordError, Store, read_record, write_record
from rhobench.results.record import MAX_BYTES
from rhobench.results.text import is_file_name, printable

ROOT = Path(__file__).parents[2]
MARKUP = "</script><img src=x onerror=alert(1)>'\"[red]x[/red][link=http://evil]&lt;"
ESCAPES = "\x1b[31m\x1b]8;;http://evil\x07 \u202egnp.exe \r\n=1+1"
NASTY = MARKUP + ESCAPES
NAMES = (
    "<img src=x onerror=alert(2)>",
    "'onclick='alert(3)",
    "[red]&amp;#run=other",
    "__proto__",
    "constructor",
    "=1+1",
)


def hostile(run_id: str, **fields: Any) -> Record:
    config = to_dict(RunConfig(experiment=NASTY))
    config["model"]["backbone"]["name"] = NASTY
    config["data"]["dir"] = "/data/" + NASTY.replace("/", "|")
    point = Point(
        rho=0.3,
        accuracy={"ap": 0.5},
        gflops=1.0,
        latency_ms=3.0,
        device=NASTY,
        protocol=NASTY,
        backend=NASTY,
        precision=NASTY,
    )
    values: dict[str, Any] = {
        "run_id": run_id,
        "experiment": NASTY,
        "status": "completed",
        "reason": NASTY,
        "config": config,
        "environment": {NASTY: NASTY, "packages": {NASTY: NASTY}, "argv": [NASTY], "git": {"commit": NASTY}},
        "categories": [{"label": 0, "id": 1, "name": NASTY}],
        "history": [{"epoch": 1, "ap": 0.5, NASTY: 1.0}],
        "points": [point],
        "protocols": {NASTY: NASTY},
        "training": {NASTY: [NASTY]},
        "started_at": NASTY,
    }
    return Record(**(values | fields))


class Tags(HTMLParser):
    """Elements and attributes that a browser would find in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path / "store <b>")
    for name in NAMES:
        opened.write(hostile(name))
    opened.write(hostile("failed", status="failed", points=[]))
    return opened


def test_a_page_shows_untrusted_text_without_interpreting_it(store: Store, tmp_path: Path) -> None:
    torn = store.run_dir("torn <i>") / "record.json"
    torn.parent.mkdir()
    torn.write_text("{")
    page = write_report(store, tmp_path / "report.html")
    tags = Tags(page.read_text(encoding="utf-8")).found
    plain = Store(tmp_path / "plain")
    plain.write(hostile("a", config=to_dict(RunConfig(experiment="e"))))
    harmless = {tag for tag, _ in Tags(write_report(plain, tmp_path / "plain.html").read_text(encoding="utf-8")).found}
    assert {tag for tag, _ in tags} <= harmless | {"a", "li", "ul", "h2"}
    assert [tag for tag, _ in tags].count("script") == 3, "Plotly, the data and the script of the page"
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert (attributes.get("href") or "#").startswith(("#run=", "#", "data:,"))
    links = {attributes["href"] for tag, attributes in tags if tag == "a"}
    assert links == {"#run=failed"}
    shown = column(embedded(page), "run_id")
    assert "<img src=x onerror=alert(2)>" in shown, "as data, which the script of the page shows as text"


def test_a_terminal_gets_no_control_characters(store: Store) -> None:
    console = Console(record=True, force_terminal=True, width=500, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(front_table(store.frame()))
    text = console.export_text(styles=False)
    assert not {c for c in text if ord(c) < 32} - {"\n"}
    assert "\u202e" not in text
    assert "[red]x[/red][link=http://evil]" in text, "markup of rich is text"
    assert r"\x1b[31m" in text


def test_text_of_records_loses_bidirectional_controls(tmp_path: Path) -> None:
    store = Store(tmp_path)
    marks = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    store.write(hostile("a", experiment=f"{marks}liub{marks}", reason=f"{marks}ρ"))
    escaped = store.run_dir("b") / "record.json"
    escaped.parent.mkdir()
    escaped.write_text(json.dumps(json.loads(hostile("b", experiment=f"liub{marks}").to_json())))  # in ASCII
    assert {record.experiment for record in store.records()} == {"liub"}
    assert Store(tmp_path).frame()["experiment"].tolist() == ["liub", "liub"]
    assert store.records()[0].reason == "ρ"
    page = write_report(store, tmp_path / "report.html").read_text(encoding="utf-8")
    assert not set(marks) & set(page)


def test_problems_are_printable_lines(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a\x1b[31m", "b\nc", "d\u202e"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "record.json").write_text("{}")
    os.mkdir(os.fsencode(tmp_path / "runs") + b"/\xff\xfe")
    write_record(tmp_path / "runs" / "other", hostile("\x1b[31m"))
    (tmp_path / "runs" / "status").mkdir()
    (tmp_path / "runs" / "status" / "record.json").write_text(
        json.dumps({"schema": 1, "status": "\x1b[31m", "\x1b": 1})
    )
    assert store.statuses() == {}
    assert len(store.problems) == 6
    for problem in store.problems:
        assert problem.isprintable()
        problem.encode()


SOUND = json.loads(hostile("a").to_json())


def changed(**fields: Any) -> str:
    return json.dumps(SOUND | fields)


def point(**fields: Any) -> str:
    return changed(points=[SOUND["points"][0] | fields])


def old_point(**fields: Any) -> str:
    """A record of schema 1, in which accuracy metrics are fields of a point."""
    others = {name: value for name, value in SOUND["points"][0].items() if name != "accuracy"}
    return changed(schema=1, points=[others | fields])


@pytest.mark.parametrize(
    "content",
    [
        *(changed(**{name: value}) for name in SOUND for value in (7.5, [[]], {"a": {"b": []}}, True)
          if not (name in ("environment", "training", "config") and isinstance(value, dict))),
        changed(config={"model": {"backbone": 3}}),
        changed(config={"experiment": "e", "seed": "x"}),
        changed(config={"experiment": "e", "seed": 2**60}),
        changed(config={"experiment": "e", "train": {"epochs": 10**400}}),
        changed(config={"experiment": "e", "train": {"epochs": 2**62}}),
        changed(config={"experiment": "e", "train": []}),
        changed(config={"seed": 0}),
        changed(history=[1]),
        changed(points=[3]),
        changed(points={"a": 1}),
        changed(cost={"train_seconds": "long"}),
        changed(protocols={"a": 1}),
        changed(environment={"a": json.loads("[" * 20 + "]" * 20)}),
        point(accuracy={"ap": "<b>"}), point(accuracy={"ap": True}), point(accuracy={"ap": 2**60}),
        point(accuracy=[0.5]), point(accuracy=None), point(ap=0.5),
        old_point(ap="<b>"), old_point(ap=True), old_point(ap=2**60), old_point(accuracy={"ap": 0.5}),
        changed(schema=1, points=[3]), changed(schema=1, points={"a": 1}), changed(schema=1, points=7.5),
        point(threads=1.5), point(threads=2**70), point(device=1),
        point(flops_count="mine"), point(rho=[0.1]),
        point(gflops=-6e13), point(latency_ms=-1), point(fps=-0.5), point(threads=-1), point(rho=0), point(rho=1.5),
        point(accuracy={"ap": 1.5}), point(accuracy={"ap": -1}), changed(cost={"train_seconds": -1}),
        changed(history=[{"epoch": 1, "ap": 7}]), point(gflops=1e300),
        *(point().replace('"gflops": 1.0', f'"gflops": {n}') for n in ("NaN", "Infinity", "-Infinity", "1e999")),
        point(samples_file="../../secret"), point(samples_file="/etc/passwd"), point(samples_file=".."),
        point(samples_file="a\\b"), point(matches_file="../x.npz"),
        '{"schema": 1e999}', '{"schema": true}', '"\\ud800"', "[" * 200_000, '{"a":' * 200_000, "1" * 10_000,
        changed(reason="\ud800"),
    ],
)  # fmt: skip
def test_an_unsound_record_is_reported_once_and_the_others_are_read(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    store.write(hostile("sound"))
    (tmp_path / "runs" / "a").mkdir()
    (tmp_path / "runs" / "a" / "record.json").write_text(content)
    assert len(store.frame()) == 1
    assert len(store.problems) == 1
    assert store.problems[0].startswith(str(tmp_path / "runs" / "a" / "record.json"))
    assert store.problems[0].isprintable()
    assert len(store.problems[0]) < 500
    of_the_frame = store.problems
    assert [record.run_id for record in store.records()] == ["sound"]
    assert store.problems == of_the_frame, "although a frame leaves the history out"


@pytest.mark.parametrize(
    "history",
    [[{"ap": 1.0}], [{"epoch": 1, "ap": "<b>"}], [{"epoch": [[]]}], [{"epoch": 1, "run_id": "another"}]],
)
def test_a_history_without_numbers_is_reported_and_not_drawn(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    store = Store(tmp_path)
    store.write(hostile("sound"))
    store.write(hostile("odd", history=history))
    assert store.curves()["run_id"].tolist() == ["sound"]
    assert "odd/record.json has a history" in store.problems[0]
    write_report(store, tmp_path / "report.html")


def test_a_record_above_the_size_limit_is_neither_read_nor_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(hostile("sound"))
    (tmp_path / "runs" / "large").mkdir()
    with (tmp_path / "runs" / "large" / "record.json").open("wb") as file:
        file.truncate(100 * 2**20)
    started = time.process_time()
    assert list(store.statuses()) == ["sound"]
    assert time.process_time() - started < 5
    assert store.problems == [
        f"{tmp_path}/runs/large/record.json has 100 MiB, more than the limit of 16 MiB. Move it out of the store."
    ]
    assert Store(tmp_path).records()[0].run_id == "sound"
    with pytest.raises(RecordError, match="more than the limit of 16"):
        store.write(hostile("sound", reason="x" * (MAX_BYTES + 1)))


def test_links_out_of_the_store_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_record(outside / "run", hostile("run"))
    store = Store(tmp_path / "store")
    store.write(hostile("sound"))
    runs = tmp_path / "store" / "runs"
    (runs / "run").symlink_to(outside / "run")
    (runs / "file").mkdir()
    (runs / "file" / "record.json").symlink_to(outside / "run" / "record.json")
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe" / "record.json")
    (runs / "loop").symlink_to(runs / "loop")
    assert list(store.statuses()) == ["sound"]
    assert len(store.problems) == 4
    assert sum("is a link out of the store" in problem for problem in store.problems) == 2
    before = (outside / "run" / "record.json").read_text()
    with pytest.raises(ValueError, match="is a link out of the store"):
        store.write(hostile("run", reason="written"))
    assert (outside / "run" / "record.json").read_text() == before


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "../a", "a/b", "/etc", "a\\b", ".hidden", "a\nb", "a\x1b", "a\ud800"]
)
def test_a_run_id_must_be_a_folder_name(tmp_path: Path, run_id: str) -> None:
    store = Store(tmp_path)
    assert not is_file_name(run_id)
    for use in (store.run_dir, store.read, lambda name: store.write(hostile(name))):
        with pytest.raises(ValueError, match="is not a run id"):
            use(run_id)
    assert list(tmp_path.iterdir()) == []


def test_a_reason_that_is_not_valid_text_is_recorded(tmp_path: Path) -> None:
    path = write_record(tmp_path, hostile("a", status="failed", reason="no file \udcff there"))
    assert read_record(path).reason == "no file ? there"


def test_printable_keeps_ordinary_text() -> None:
    for text in ("ρ = 0.3, четырёхугольник, 東京, é, a\u00a0b", "🙂"):
        assert printable(text) == text
    assert printable("a\tb\nc") == "a b c"


def test_code_that_reads_a_store_does_not_unpickle() -> None:
    for folder in ("platform/rhobench/results", "dashboards/rhobench/dashboards"):
        for file in (ROOT / folder).rglob("*.py"):
            names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
            modules = {
                alias.name
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            }
            assert not {"pickle", "joblib", "dill", "shelve", "marshal"} & modules, file
            assert not {"read_pickle", "loads_pickle"} & names, file

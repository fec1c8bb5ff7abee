"""The live view, asked as a browser would ask it."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from report_page import OVERLAPS

from rhobench.results import Store

pytest.importorskip("dash", reason="dash is not installed")

from werkzeug.serving import make_server

from rhobench.dashboards.live import POLL_MS, create_app
from rhobench.results.sweep_progress import NodeUse, RunProgress, SweepProgress, progress_path

OUTPUTS = ("front", "other", "front-summary", "other-summary", "headline", "state", "runs", "problem")

TOKEN = "0123456789abcdef" * 2

SWEEP = SweepProgress(
    title="demo",
    headline="training",
    states={"completed": 3, "training": 1, "waiting": 2},
    seconds_left=3900.0,
    runs=[
        RunProgress(
            run_id="a-running-run", state="training", epoch=1.5, epochs=4, loss=3.21, ap=0.123, seconds_left=130.0
        ),
        RunProgress(run_id="a-waiting-run", state="waiting", note="for 2 CPUs; 1 CPU free"),
        RunProgress(run_id="<b>another", state="waiting", note="</script>"),
    ],
    nodes=[NodeUse(node="0123456789abcdef", cpus=4.0, used_cpus=3.0)],
)


@pytest.fixture
def changing(store: Store, tmp_path: Path) -> Store:
    """A small store that a test may write to."""
    copy = Store(shutil.copytree(store.path, tmp_path / "store"))
    for run in copy.frame()["run_id"][copy.frame()["seed"] == 1]:
        shutil.rmtree(copy.run_dir(run))
    return copy


def ask(client: Any, output: str, inputs: list[tuple[str, str, Any]], state: list[tuple[str, str, Any]] = ()) -> Any:
    """Response to the callback with this output."""

    def values(items: list[tuple[str, str, Any]]) -> list[dict[str, Any]]:
        return [{"id": name, "property": field, "value": value} for name, field, value in items]

    found = [dict(zip(("id", "property"), part.rsplit(".", 1), strict=True)) for part in output.strip(".").split("...")]
    outputs: Any = found if output.startswith("..") else found[0]
    body = {
        "output": output,
        "outputs": outputs,
        "inputs": values(inputs),
        "state": values(list(state)),
        "changedPropIds": [],
    }
    return client.post("/_dash-update-component", json=body, headers={"Host": "127.0.0.1:8050"})


def drawn(
    client: Any, where: str = "", x: str = "gflops", chosen: str = "curves", version: str = "1"
) -> dict[str, Any]:
    """What the page shows."""
    parts = [f"{name}.{'figure' if name in ('front', 'other') else 'children'}" for name in OUTPUTS]
    stored = [("version", "data", version), ("dark", "data", False), ("width", "data", 1200)]
    chosen_values = [("x", "value", x), ("y", "value", "ap"), ("chosen", "value", chosen), ("where", "value", where)]
    inputs = [*stored, *chosen_values]
    response = ask(client, f"..{'...'.join(parts)}..", inputs)
    assert response.status_code == 200
    return {name: next(iter(value.values())) for name, value in response.json["response"].items()}


def running(client: Any) -> str:
    """Text of the section on running sweeps, as JSON."""
    response = ask(client, "running.children", [("clock", "n_intervals", 1)])
    assert response.status_code == 200
    return json.dumps(response.json["response"]["running"]["children"], ensure_ascii=False)


def test_a_new_run_changes_the_version_and_appears(changing: Store) -> None:
    client = create_app(changing, None).server.test_client()
    tick = lambda shown: ask(client, "version.data", [("clock", "n_intervals", 1)], [("version", "data", shown)])  # noqa: E731
    version = tick(None).json["response"]["version"]["data"]
    unchanged = tick(version)
    assert unchanged.status_code == 204 or "data" not in unchanged.json["response"].get("version", {}), "no redraw"
    before = drawn(client, version=version)
    assert before["state"] == "5 completed, 1 failed"
    record = next(record for record in changing.records() if record.status == "completed")
    changing.write(replace(record, run_id="another-run"))
    started = changing.run_dir("a-running-run") / "attempt.json"
    started.parent.mkdir()
    started.write_text(json.dumps({"started_at": "2026-11-29T10:00:00", "node": "0123456789abcdef", "past": []}))
    assert tick(version).json["response"]["version"]["data"] != version
    after = drawn(client, version="2")
    assert after["state"] == "6 completed, 1 failed, 1 running or killed"
    assert "another-run" in json.dumps(after["runs"])
    assert "a-running-run" in running(client)
    assert "0123456789ab" in running(client)


def test_a_running_sweep_is_followed(changing: Store) -> None:
    client = create_app(changing, None).server.test_client()
    assert "Nothing is running." in running(client)
    changing.files.write(progress_path(TOKEN), msgspec.json.encode(SWEEP))
    shown = running(client)
    for words in (
        "demo: training",
        "3 completed, 1 training, 2 waiting, about 1 h 05 min of training left",
        "1.5 of 4",
        "3.21",
        "12.3",
        "2 min",
        "waiting: for 2 CPUs; 1 CPU free",
        "3 of 4",
    ):
        assert f'"{words}"' in shown
    assert "No sign of life" not in shown
    old = time.time() - 600
    os.utime(changing.path / progress_path(TOKEN), (old, old))
    assert "No sign of life for 10 min" in running(client)


@pytest.mark.parametrize("damage", ["", "[1]", "{", '{"title": 3}', '{"title":"a","headline":"b","runs":[{}]}'])
def test_a_damaged_file_of_a_sweep_does_no_harm(changing: Store, damage: str) -> None:
    changing.files.write(progress_path(TOKEN), damage.encode())
    changing.files.write("progress/another-file.json", msgspec.json.encode(SWEEP))
    assert "Nothing is running." in running(create_app(changing, None).server.test_client())


def test_the_zoom_is_kept_as_long_as_the_axes_are_the_same(changing: Store) -> None:
    client = create_app(changing, None).server.test_client()
    first, second, other = drawn(client), drawn(client, version="2"), drawn(client, x="latency_ms")
    revisions = [page["front"]["layout"]["uirevision"] for page in (first, second, other)]
    assert revisions[0] == revisions[1] != revisions[2]


def test_conditions_reach_the_figures_and_a_wrong_one_is_explained(changing: Store) -> None:
    client = create_app(changing, None).server.test_client()
    page = drawn(client, where="rho=0.1, status=completed")
    assert sum(len(trace["x"]) for trace in page["front"]["data"] if trace["meta"] == "front") == 1
    assert "Did you mean 'rho'?" in drawn(client, where="roh=1")["problem"]


@pytest.mark.parametrize("damage", ["", "[1]", "{", '{"past": 3, "node": ["</script>"]}'])
def test_a_damaged_attempt_file_does_no_harm(changing: Store, damage: str) -> None:
    started = changing.run_dir("<b>running") / "attempt.json"
    started.parent.mkdir()
    started.write_text(damage)
    client = create_app(changing, None).server.test_client()
    assert "<b>running" in running(client)


def test_on_loopback_only_names_of_this_machine_are_answered(changing: Store) -> None:
    client = create_app(changing, None).server.test_client()
    assert client.get("/", headers={"Host": "127.0.0.1:8050"}).status_code == 200
    assert client.get("/", headers={"Host": "localhost:8050"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example:8050"}).status_code == 403


def test_elsewhere_every_request_needs_the_token(changing: Store) -> None:
    client = create_app(changing, "the-token").server.test_client()
    for path in ("/", "/_dash-layout", "/_dash-dependencies"):
        assert client.get(path).status_code == 403
        assert client.get(f"{path}?token=wrong").status_code == 403
    assert client.get("/?token=the-token").status_code == 200
    assert client.get("/_dash-layout").status_code == 200, "the cookie carries the token from then on"


def test_the_page_loads_nothing_from_elsewhere(changing: Store) -> None:
    client = create_app(changing, None).server.test_client()
    page = client.get("/", headers={"Host": "localhost"}).text
    assert "https://" not in page
    assert "http://" not in page


@pytest.mark.browser
def test_a_browser_shows_a_new_run_within_seconds_and_asks_no_other_host(changing: Store, browser: Any) -> None:
    server = make_server("127.0.0.1", 0, create_app(changing, None).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    address = f"http://127.0.0.1:{server.server_port}"
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        page.goto(address)
        page.get_by_text("5 completed, 1 failed").wait_for()
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2")
        for name in ("front", "other"):
            assert page.locator(f"#{name} .main-svg").first.bounding_box()["height"] > 200
        record = next(record for record in changing.records() if record.status == "completed")
        changing.write(replace(record, run_id="another-run"))
        page.get_by_text("6 completed, 1 failed").wait_for(timeout=5_000)
        assert page.get_by_text("another-run").count() >= 1
        assert page.locator("[data-title*='Share'], [data-title*='cloud']").count() == 0
        changing.files.write(progress_path(TOKEN), msgspec.json.encode(SWEEP))
        page.get_by_text("waiting: for 2 CPUs; 1 CPU free").wait_for(timeout=5_000)
        assert page.get_by_text("<b>another").count() == 1, "names are text"
        assert page.evaluate(OVERLAPS, "#front") == 0
        page.set_viewport_size({"width": 390, "height": 800})
        page.wait_for_function("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.wait_for_timeout(2 * POLL_MS)  # the labels follow the width with the next look at the store
        assert page.evaluate(OVERLAPS, "#front") == 0
    finally:
        page.close()
        server.shutdown()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []

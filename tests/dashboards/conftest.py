from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, with_value
from rhobench.results import Point, Record, Store, write_record

REASON = "Out of memory </script><img src=x onerror=alert(1)>"


def add(
    store: Store, rho: float | None, seed: int = 0, backbone: str = "resnet50", ap: float | None = None, **point: Any
) -> str:
    """Write the record of a run with one point, or without ``point`` that of a failed run."""
    base = with_value(RunConfig(experiment="sweep", seed=seed), "model.backbone.name", backbone)
    config = with_value(base, "model.rho", rho)
    name = run_id(config, ("model.backbone.name", "model.rho"))
    standard = Point(
        rho=rho,
        protocol="latency-v1",
        device="a CPU",
        backend="cpu",
        threads=1,
        batch_size=1,
        precision="fp32",
        flops_count="standard",
    )
    record = Record(
        run_id=name,
        experiment="sweep",
        status="completed" if point else "failed",
        reason=None if point else REASON,
        config=to_dict(config),
        environment={"packages": {"torch": "9.8.7"}},
        history=[{"epoch": e, "loss": 1 / e, "ap": (ap or 0.1) * e / 3} for e in (1, 2, 3)],
        points=[replace(standard, accuracy={"ap": ap}, **point)] if point else [],
        protocols={"latency-v1": "One call, image decoding not included."},
    )
    write_record(store.run_dir(name), record)
    return name


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four rho, each with two seeds, of one model; one dense run of another, which is dominated; one failure."""
    store = Store(tmp_path_factory.mktemp("store"))
    for rho, ap, gflops, ms in (
        (0.1, 0.52, 0.52, 31),
        (0.25, 0.54, 0.55, 33),
        (0.5, 0.545, 0.60, 38),
        (1.0, 0.55, 0.68, 47),
    ):
        for seed in (0, 1):
            latency: dict[str, Any] = {
                "latency_ms": ms,
                "latency_low_ms": ms * 0.9,
                "latency_high_ms": ms * 1.2,
                "fps": 1000 / ms,
            }
            add(store, rho, seed, ap=ap + 0.002 * seed, gflops=gflops, **latency)
    add(store, None, backbone="resnet18", ap=0.5, gflops=0.7, latency_ms=60.0)
    add(store, 0.25, seed=2)
    return store


@pytest.fixture(scope="module")
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Function that opens a page and waits until it is drawn; there must be no error and no request until the end."""
    errors: list[str] = []
    requests: list[str] = []
    pages: list[Any] = []

    def visit(path: Path, fragment: str = "", width: int = 1280) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
        page.goto(path.as_uri() + fragment)
        page.wait_for_function("window.__ready", timeout=120_000)
        return page

    yield visit
    for page in pages:
        page.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []

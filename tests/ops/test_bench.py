"""The benchmark checks results before it times them, and its table and JSON agree."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from rhobench.ops import bench, limits, measure, shapes, timing
from rhobench.ops.shapes import Problem

TINY = Problem(levels=((6, 8), (3, 4)), queries=90, heads=2, width=8, points=2, kind="decoder", about="tiny")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)


def run(capsys, *arguments):
    status = bench.main([*arguments, "--device", "cpu", "--rounds", "2", "--threads", "1"])
    return status, capsys.readouterr().out


@pytest.mark.parametrize(("form", "compiled"), [("fused", True), ("plain", False)])
def test_table_and_json_agree(form, compiled, tmp_path, capsys):
    options = ["--form", form, "--out", str(tmp_path / "out.json"), *([] if compiled else ["--no-compiled"])]
    status, table = run(capsys, "tiny", *options)
    found = json.loads((tmp_path / "out.json").read_text())
    rows = {(row["backend"], row["dtype"]): row for row in found["rows"]}
    assert status == 0
    assert list(rows) == [
        ("reference", "float32"),
        *([("compiled reference", "float32")] if compiled else []),
        *(("cpu", dtype) for dtype in ("float32", "bfloat16", "float16")),
    ]
    assert found["machine"]["threads"] == 1
    for row in rows.values():
        for kind in limits.PASSES:
            assert len(row[kind]["samples_ms"]["cold"]) == 2
            assert row[kind]["p10_p90_ms"][0] <= row[kind]["median_ms"] <= row[kind]["p10_p90_ms"][1]
            expected = rows["reference", "float32"][kind]["median_ms"] / row[kind]["median_ms"]
            assert row[kind]["times_as_fast_as"]["reference"] == pytest.approx(expected)
    ours = next(line for line in table.splitlines() if line.startswith("tiny") and "bfloat16" in line)
    assert f"{rows['cpu', 'bfloat16']['forward']['median_ms']:.3f}" in ours


def test_a_backend_that_fails_its_check_is_not_timed(tmp_path, capsys, monkeypatch):
    attend = shapes.attend

    def inexact(*arguments, backend):
        return attend(*arguments, backend) * (1.001 if backend == "cpu" else 1)

    monkeypatch.setattr(measure, "attend", inexact)
    out = tmp_path / "out.json"
    status, table = run(capsys, "tiny", "--dtype", "float32", "--no-compiled", "--out", str(out))
    assert status == 1
    assert "not timed: output has a relative error of 1.0e-03, limit 5.0e-07" in table or "not timed: grad_" in table
    reference, ours = json.loads(out.read_text())["rows"]
    assert "forward" in reference
    assert "forward" not in ours


def test_an_unknown_problem_is_rejected(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["tinny"])
    assert stopped.value.code == 2
    assert "unknown problem 'tinny': choose from dense, sparse30" in capsys.readouterr().err


def test_the_limit_follows_from_bytes_moved(monkeypatch):
    speeds = {}
    monkeypatch.setattr(limits, "read_speed", lambda size, *_: speeds.setdefault(size, 1e9))
    samples, outputs, values = 90 * 2 * 2 * 2, 90 * 2 * 8, 60 * 2 * 8
    once = 4 * (values + 3 * samples + 90 * 2 * 4 + outputs)  # value, offsets, logits, boxes; output
    gathered = 4 * 8 * samples * 4  # four rows of 8 numbers for each sample
    assert limits.limit_ms(TINY, torch.float32, "forward") == pytest.approx(max(once, gathered) / 1e6)
    assert set(speeds) == {once, 4 * values}
    monkeypatch.setattr(limits, "read_speed", lambda size, *_: 1e9 if size == 4 * values else 1e18)
    backward = 3 * gathered  # the value again, and a sum read and written
    assert limits.limit_ms(TINY, torch.float32, "training") == pytest.approx((gathered + backward) / 1e6)
    assert limits.limit_ms(TINY, torch.bfloat16, "forward") < 1e-3  # its value has another size


def test_read_speed_is_measured():
    assert 1e8 < limits.read_speed(1 << 20, torch.get_num_threads()) < 1e13


def test_a_gpu_gathers_rows_from_l1(monkeypatch):
    gpu = SimpleNamespace(multi_processor_count=100, clock_rate=1_000_000)  # kHz
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(limits, "read_speed", lambda *_: 1e18)
    gathered = 4 * 8 * 90 * 2 * 2 * 2 * 4
    assert limits.limit_ms(TINY, torch.float32, "forward", "cuda") == pytest.approx(gathered / (128 * 100 * 1e9) * 1e3)
    assert limits.limit_ms(TINY, torch.float32, "training", "cuda") == pytest.approx(
        2 * gathered / (128 * 100 * 1e9) * 1e3
    )


def test_contenders_are_interleaved():
    calls = []

    def contender(name):
        return timing.Contender(lambda: calls.append(name.upper()) or 2.0, lambda: calls.append(name) or 1.0, "wall")

    samples = timing.time_interleaved({name: contender(name) for name in "ab"}, rounds=3, max_warm=2)
    assert "".join(calls) == 3 * "AaaBbb"
    assert all(one.cold == [2.0] * 3 and one.warm_samples == [1.0] * 6 for one in samples.values())


def test_slow_calls_are_made_twice_per_round(monkeypatch):
    clock = iter(range(10**9))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) * 1.0)
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: next(clock) * 10**6)
    calls = []
    (samples,) = timing.time_interleaved({"slow": timing.on_cpu(lambda: calls.append(1))}, rounds=2).values()
    assert (samples.cold, samples.warm) == ([1.0, 1.0], [[1.0], [1.0]])
    assert samples.median == samples.cold_median == 1.0
    assert samples.spread == (1.0, 1.0)
    assert len(calls) == 5  # including an untimed first call, which may compile


def test_peers_are_timed(monkeypatch, capsys):
    def twice(form, arguments, shapes_, index):
        return shapes.attend(form, arguments, shapes_, index, "reference") * 2

    same = partial(shapes.attend, backend="reference")
    status = bench.main(
        ["tiny", "--no-compiled", "--rounds", "2", "--device", "cpu"], {"another": same, "wrong": twice}
    )
    table = capsys.readouterr().out
    assert status == 0  # a wrong peer does not fail the benchmark
    assert "x another" in table
    assert "not timed: output has a relative error of 1.0e+00" in next(
        row for row in table.splitlines() if row[12:].startswith("wrong")
    )


@pytest.mark.parametrize(
    ("device", "sentence"), [("gpu", "unknown --device 'gpu'"), ("meta", "no backend is named 'meta'")]
)
def test_a_device_without_backend_is_rejected(device, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["decoder", "--device", device])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err

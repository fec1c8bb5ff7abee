"""The benchmark: correctness first, then times that mean what the table says."""

from __future__ import annotations

import json

import pytest
import torch

from rhobench.ops import bench, limits, shapes, timing
from rhobench.ops.shapes import Problem

TINY = Problem(levels=((6, 8), (3, 4)), queries=90, heads=2, width=8, points=2, kind="decoder", about="a tiny one")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)


def run(capsys, *arguments):
    status = bench.main([*arguments, "--rounds", "2", "--threads", "1"])
    return status, capsys.readouterr().out


@pytest.mark.parametrize(("form", "compiled"), [("fused", True), ("plain", False)])
def test_table_for_people_and_json_for_machines(form, compiled, tmp_path, capsys):
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
    assert f"{rows['cpu', 'bfloat16']['forward']['median_ms']:.2f}" in ours


def test_what_fails_its_check_gets_no_time(tmp_path, capsys, monkeypatch):
    attend = shapes.attend

    def off(*arguments, backend):
        return attend(*arguments, backend) * (1.001 if backend == "cpu" else 1)

    monkeypatch.setattr(bench, "attend", off)
    out = tmp_path / "out.json"
    status, table = run(capsys, "tiny", "--dtype", "float32", "--no-compiled", "--out", str(out))
    assert status == 1
    assert "not timed: output is 1.0e-03 off, limit 5.0e-07" in table or "not timed: grad_" in table
    reference, ours = json.loads(out.read_text())["rows"]
    assert "forward" in reference
    assert "forward" not in ours


def test_a_problem_that_does_not_exist_is_a_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["tinny"])
    assert stopped.value.code == 2
    assert "there is no problem 'tinny': choose from dense, sparse30" in capsys.readouterr().err


def test_the_limit_is_what_memory_must_move(monkeypatch):
    speeds = {}
    monkeypatch.setattr(limits, "read_speed", lambda size, threads: speeds.setdefault(size, 1e9))
    samples, outputs, values = 90 * 2 * 2 * 2, 90 * 2 * 8, 60 * 2 * 8
    once = 4 * (values + 3 * samples + 90 * 2 * 4 + outputs)  # value, offsets, logits, boxes; output
    gathered = 4 * 8 * samples * 4  # four rows of 8 numbers for each sample
    assert limits.limit_ms(TINY, torch.float32, "forward") == pytest.approx(max(once, gathered) / 1e6)
    assert set(speeds) == {once, 4 * values}
    monkeypatch.setattr(limits, "read_speed", lambda size, threads: 1e9 if size == 4 * values else 1e18)
    backward = 3 * gathered  # the value again, and a sum read and written
    assert limits.limit_ms(TINY, torch.float32, "training") == pytest.approx((gathered + backward) / 1e6)
    assert limits.limit_ms(TINY, torch.bfloat16, "forward") < 1e-3  # its value has another size


def test_read_speed_is_measured():
    assert 1e8 < limits.read_speed(1 << 20, torch.get_num_threads()) < 1e13


def test_contenders_take_turns():
    calls = []
    samples = timing.take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, most=2)
    assert "".join(calls) == "ab" + 3 * "aaabbb"  # once untimed, then first and two more in each round
    assert all(len(one.cold) == 3 and len(one.all_warm) == 6 for one in samples.values())


def test_slow_calls_get_two_a_turn(monkeypatch):
    clock = iter(range(10**9))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) * 1.0)
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: next(clock) * 10**6)
    (samples,) = timing.take_turns({"slow": lambda: None}, rounds=2).values()
    assert (samples.cold, samples.warm) == ([1.0, 1.0], [[1.0], [1.0]])
    assert samples.median == samples.cold_median == 1.0
    assert samples.spread == (1.0, 1.0)

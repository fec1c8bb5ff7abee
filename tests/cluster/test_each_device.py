"""Which node measures on which kind of device."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from rhobench.cluster.each_device import ReportedNode, choose_nodes
from rhobench.cluster.measurement import MeasurementNode
from rhobench.cluster.placement import Resources

KINDS = st.tuples(st.sampled_from(["Xeon, 8 cores", "EPYC, 64 cores"]), st.sets(st.sampled_from(["H200", "T4"])))


def node(name: str, cpu: str, gpus: set[str]) -> ReportedNode:
    resources = Resources(cpus=8, gpus=len(gpus))
    return ReportedNode(node=MeasurementNode(node_id=name, resources=resources), cpu=cpu, gpus=tuple(sorted(gpus)))


@given(kinds=st.lists(KINDS, max_size=8), seed=st.integers(0, 9))
def test_every_kind_is_measured_once_on_the_same_node_in_any_order(
    kinds: list[tuple[str, set[str]]], seed: int
) -> None:
    nodes = [node(f"n{i}", *kind) for i, kind in enumerate(kinds)]
    chosen = choose_nodes(nodes)
    expected = {("cpu", cpu) for cpu, _ in kinds} | {("cuda", gpu) for _, gpus in kinds for gpu in gpus}
    assert sorted((each.device, each.kind) for each in chosen) == sorted(expected)
    for each in chosen:
        (own,) = (n for n in nodes if n.node == each.node)
        assert each.kind in (own.gpus if each.device == "cuda" else (own.cpu,))
    assert choose_nodes(random.Random(seed).sample(nodes, len(nodes))) == chosen


def test_a_processor_is_measured_where_no_gpu_is_kept_busy() -> None:
    chosen = choose_nodes([node("a", "Xeon", {"T4"}), node("b", "Xeon", set())])
    assert [(each.kind, each.node.node_id) for each in chosen] == [("Xeon", "b"), ("T4", "a")]

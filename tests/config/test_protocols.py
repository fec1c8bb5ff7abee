"""Protocols: their content is pinned, and their ids tell every change."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from rhobench.config import ConfigError, MeasureConfig
from rhobench.config.protocols import PROTOCOLS, SCOPES, Protocol, ProtocolError, find_protocol


@pytest.mark.parametrize(
    ("name", "identity", "content"),
    [
        ("latency", "latency-detector/2", "99c335b7"),
        ("throughput", "throughput-detector/1", "9f652ba1"),
        ("deploy", "deploy-detector/1", "8c2c752b"),
        ("paper", "paper-model/1", "d6bffe54"),
    ],
)
def test_a_protocol_that_changes_needs_a_new_version(name: str, identity: str, content: str) -> None:
    """Numbers of every existing store were measured by it: increment the version, then update the hash."""
    assert (PROTOCOLS[name].id, PROTOCOLS[name].sha256) == (identity, content)


def test_the_id_names_the_scope_and_every_change() -> None:
    assert find_protocol("latency", "end_to_end").id == "latency-end_to_end/2"
    fewer = MeasureConfig(iterations=4, rounds=2).timing
    assert fewer.id == "latency-detector/2 (rounds 2, min_calls 4, min_seconds 0, target 0)"
    assert MeasureConfig(protocol="paper").timing == PROTOCOLS["paper"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_equal_ids_mean_equal_protocols(name: str) -> None:
    """Whatever field differs, the id does too, except for those that are in the point or decide nothing."""
    own = PROTOCOLS[name]
    for each in fields(Protocol):
        value = getattr(own, each.name)
        if each.name in ("name", "version", "scope", "purpose", "batch_sizes"):
            continue
        other = (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else None
        other = {"shapes": "none", "statistic": "none"}.get(each.name, other)
        other = 123.5 if isinstance(value, float) else other
        assert replace(own, **{each.name: other}).id != own.id, each.name


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("scope", SCOPES)
def test_the_description_says_what_is_timed(name: str, scope: str) -> None:
    text = find_protocol(name, scope).describe()
    assert SCOPES[scope] in text  # type: ignore[index]
    assert ("Mean of" if name == "paper" else "Median of") in text
    assert ("copies of the first" in text) == (name == "paper")


def test_what_does_not_exist_is_refused_with_what_does() -> None:
    with pytest.raises(ProtocolError, match="no protocol 'fast': choose one of latency, throughput, deploy, paper"):
        find_protocol("fast")
    with pytest.raises(ProtocolError, match="no scope 'all': choose one of model, detector, end_to_end"):
        find_protocol("latency", "all")
    with pytest.raises(ConfigError, match=r"measure\.protocol='fast' is not allowed: it must be one of latency"):
        MeasureConfig(protocol="fast")

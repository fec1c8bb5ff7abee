from __future__ import annotations

import os
import tempfile

import pytest

from rhobench.ops import cpu
from rhobench.ops.cache import cache_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``cache_folder`` with an empty home."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return cache_folder.__wrapped__


def test_default_is_the_users_cache(folder, tmp_path):
    assert folder("a", "b") == tmp_path / "home" / "rhobench" / "a" / "b"


def test_a_variable_overrides_the_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELS", str(tmp_path / "named"))
    assert folder("a", variable="KERNELS") == tmp_path / "named" / "a"


def test_fallback_is_private_and_temporary(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    shared = folder("a")
    assert shared.is_relative_to(tmp_path)
    assert shared.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: -1)  # the folder there belongs to another user
    foreign = tmp_path / "rhobench--1"
    foreign.mkdir(parents=True)
    assert not folder("a").is_relative_to(foreign)


def test_numba_folder_depends_on_the_kernel_sources():
    assert cpu.cache_dir().parent.name == "numba"
    assert len(cpu.cache_dir().name) == 12

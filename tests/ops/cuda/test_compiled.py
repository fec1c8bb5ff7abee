"""Compiled kernels are cached on disk, and a damaged file is never loaded."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from machine_code import HOPPER, sizes_of

from rhobench.ops.cuda import compiled, prepare
from rhobench.ops.cuda.compiled import CompileError, cubin
from rhobench.ops.cuda.launch import backward_launch, finish_launch, forward_launch

VARIANT = finish_launch(backward_launch(sizes_of("decoder", 0, fused=True), HOPPER, deterministic=True)).variant
ELF = b"\x7fELF"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "cache_folder", lambda _: tmp_path)
    return tmp_path


@pytest.fixture
def compilations(monkeypatch):
    """The arguments of every call of ``compile_variant``."""
    calls = []
    compile_variant = compiled.compile_variant

    def record(*arguments):
        calls.append(arguments)
        return compile_variant(*arguments)

    monkeypatch.setattr(compiled, "compile_variant", record)
    return calls


def test_a_compiled_variant_is_cached(folder, compilations):
    code = cubin(VARIANT, (9, 0))
    assert code.startswith(ELF)
    assert cubin(VARIANT, (9, 0)) == code
    assert len(compilations) == 1
    (file,) = folder.iterdir()
    assert file.suffix == ".cubin"


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\0" + content[1:], lambda _: b""])
def test_a_damaged_file_is_recompiled(folder, compilations, damage):
    code = cubin(VARIANT, (9, 0))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert cubin(VARIANT, (9, 0)) == code
    assert len(compilations) == 2
    assert file.read_bytes() == whole


def test_a_file_is_specific_to_source_variant_gpu_and_compiler(folder, monkeypatch):
    def files():
        return {file.name for file in folder.iterdir()}

    other = replace(VARIANT, defines=tuple((name, 64 if name == "WIDTH" else x) for name, x in VARIANT.defines))
    for variant, capability in ((VARIANT, (9, 0)), (other, (9, 0)), (VARIANT, (8, 0))):
        cubin(variant, capability)
    assert len(files()) == 3
    monkeypatch.setattr(compiled, "_version", lambda: (99, 0))
    cubin(VARIANT, (9, 0))
    assert len(files()) == 4
    monkeypatch.setattr(compiled, "source_digest", lambda: "another source")
    cubin(VARIANT, (9, 0))
    assert len(files()) == 5


def test_without_a_writable_folder_kernels_are_recompiled(tmp_path, monkeypatch, compilations):
    (tmp_path / "file").touch()
    monkeypatch.setattr(compiled, "cache_folder", lambda _: tmp_path / "file")
    assert cubin(VARIANT, (9, 0)) == cubin(VARIANT, (9, 0))
    assert len(compilations) == 2


def test_prepare_fills_the_cache(folder, compilations):
    forward = forward_launch(sizes_of("decoder", 0, fused=True), HOPPER).variant
    assert prepare([VARIANT, forward], (9, 0)) == 2
    cubin(forward, (9, 0))
    assert len(compilations) == 2


def test_many_threads_and_processes_at_once(tmp_path):
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from machine_code import HOPPER, sizes_of; from rhobench.ops.cuda import compiled; import test_compiled\n"
        "compiled.cache_folder = lambda _: Path(sys.argv[1])\n"
        "print(len(compiled.cubin(test_compiled.VARIANT, (9, 0))))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), *sys.path]
    here = str(compiled.Path(__file__).parent)
    started = [subprocess.Popen([*command, here], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sizes = {process.communicate()[0] for process in started}
    assert all(process.returncode == 0 for process in started)
    assert len(sizes) == 1
    assert len(list(tmp_path.iterdir())) == 1  # no temporary file is left
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: cubin(VARIANT, (9, 0)), range(8)))) == 1


def test_a_compile_error_shows_the_log(tmp_path, monkeypatch):
    (tmp_path / "finish.cu").write_text('extern "C" __global__ void finish() { nonsense; }')
    monkeypatch.setattr(compiled, "SOURCE", tmp_path)
    with pytest.raises(CompileError, match=r"(?s)cannot compile finish\.cu for sm_90 with .*'WIDTH': 32.*nonsense"):
        compiled.compile_variant(VARIANT, (9, 0))


def test_a_missing_nvrtc_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(CompileError, match=r"install it with `pip install 'rhobench\[cuda\]'`, or use backend="):
        compiled.compile_variant(VARIANT, (9, 0))

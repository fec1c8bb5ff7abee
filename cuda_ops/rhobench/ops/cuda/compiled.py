"""Compilation of the CUDA kernels with NVRTC, which needs no GPU, cached on disk for later processes.

The name of a file is a digest of everything that it depends on. Files are moved into place by a rename and carry a
digest of their contents, so many workers can compile at once, and a file left by a killed worker is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from rhobench.ops.cache import cache_folder
from rhobench.ops.cuda.launch import Variant

SOURCE = Path(__file__).parent / "source"
"""Folder of the kernel sources."""
OPTIONS = ("--std=c++17", "--ptxas-options=-v")
"""Compiler options of every variant; the second writes registers and spills to the log."""
OLDEST = (7, 5)
"""Oldest compute capability that NVRTC of CUDA 13 compiles for."""


class CompileError(RuntimeError):
    """NVRTC is not installed, or rejects a source."""


def cubin(variant: Variant, capability: tuple[int, int]) -> bytes:
    """Machine code of a variant for a compute capability, from the cache or newly compiled.

    Raises:
        CompileError: the variant cannot be compiled.
    """
    file = cache_folder("cuda") / f"{_key(variant, capability)}.cubin"
    try:
        content = file.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return content[32:]
    except OSError:
        pass  # not compiled yet
    code, _ = compile_variant(variant, capability)
    _write(file, hashlib.sha256(code).digest() + code)
    return code


def compile_variant(variant: Variant, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Compile a variant without using the cache.

    Returns:
        Machine code, and the log of the compiler, which contains registers and spills.

    Raises:
        CompileError: the variant cannot be compiled.
    """
    nvrtc = _nvrtc()
    headers = sorted(SOURCE.glob("*.cuh"))
    name = f"{variant.kernel}.cu"
    _, program = nvrtc.nvrtcCreateProgram(
        (SOURCE / name).read_bytes(),
        name.encode(),
        len(headers),
        [header.read_bytes() for header in headers],
        [header.name.encode() for header in headers],
    )
    try:
        options = [option.encode() for option in _options(variant, capability)]
        (failed,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
        if int(failed):
            raise CompileError(
                f"NVRTC {'.'.join(map(str, _version()))} cannot compile {name} for sm_{_digits(capability)} with "
                f"{dict(variant.defines)}: {log.strip()}"
            )
        return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def prepare(variants: Iterable[Variant], capability: tuple[int, int]) -> int:
    """Compile variants into the cache, before many workers need them at once, and return their number."""
    return len([cubin(variant, capability) for variant in variants])


def _options(variant: Variant, capability: tuple[int, int]) -> list[str]:
    defines = [f"-D{name}={value}" for name, value in variant.defines]
    # sm_ instead of compute_: NVRTC then returns machine code, which the driver need not compile from PTX.
    return [f"--gpu-architecture=sm_{_digits(capability)}", *OPTIONS, *defines]


def _digits(capability: tuple[int, int]) -> str:
    return f"{capability[0]}{capability[1]}"


def _key(variant: Variant, capability: tuple[int, int]) -> str:
    parts = variant.kernel, _options(variant, capability), _version(), source_digest()
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@cache
def source_digest() -> str:
    """Digest of all kernel sources; measurements are comparable if it is the same."""
    files = sorted(SOURCE.glob("*.cu*"))
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


@cache
def _version() -> tuple[int, int]:
    _, major, minor = _nvrtc().nvrtcVersion()
    return major, minor


def _nvrtc():  # type: ignore[no-untyped-def]  # noqa: ANN202
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise CompileError(
            f"NVRTC cannot be imported ({error}): install it with `pip install 'rhobench[cuda]'`, or use "
            "backend='reference'."
        ) from error
    return nvrtc


def _text(size_of, get, program) -> bytes:  # type: ignore[no-untyped-def]  # noqa: ANN001
    _, size = size_of(program)
    # NVRTC writes into this object, although bytes are immutable in Python.
    text = b" " * size
    get(program, text)
    return text


def _write(file: Path, content: bytes) -> None:
    """Write a file atomically; an error, such as a full disk, is ignored, and the next process compiles again."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)

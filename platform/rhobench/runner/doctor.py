"""What works on this machine, tried out: the backends of deformable attention, a GPU, Ray, a browser."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from rhobench.cluster.address import ClusterError
from rhobench.cluster.session import ask_a_worker
from rhobench.ops import available_backends, cpu, cuda, resolve_backend
from rhobench.ops.check import DTYPES, check_backend
from rhobench.ops.measure import measure, ratio
from rhobench.ops.shapes import SHAPES

TIMED = "sparse10"
"""The problem that backends are timed on."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was tried."""

    name: str
    works: bool
    sentence: str
    required: bool = True
    """Whether rhobench needs it."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the sentence says, for programs."""

    @property
    def verdict(self) -> str:
        """In a word."""
        return "ok" if self.works else "FAILED" if self.required else "none"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def examine() -> Iterator[Finding]:
    """Try everything, one after the other."""
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for backend in available_backends():
            if backend in ("reference", device):
                yield _backend(backend, device)
    yield _gpu()
    yield _ray()
    yield _browser()


def _backend(backend: str, device: str) -> Finding:
    """Compared with float64 in every dtype; if it agrees, timed beside the reference."""
    name = f"deformable attention, {backend} on {device}"
    compared = [one for dtype in DTYPES.values() for one in check_backend(backend, device, dtype)]
    wrong = [one for one in compared if not one.agrees]
    chosen = resolve_backend(device) == backend
    details: dict[str, Any] = {"backend": backend, "device": device, "chosen": chosen, "checks": len(compared)}
    details["wrong"] = [f"{one.form}, {one.problem}, {one.dtype}: {one.sentence}" for one in wrong]
    if wrong:
        sentence = f"{len(wrong)} of {len(compared)} checks disagree with float64; first {details['wrong'][0]}"
        return Finding(name=name, works=False, sentence=sentence, details=details)
    own = [] if backend == "reference" else [backend]
    rows = measure(TIMED, "fused", own, ["float32"], device=device, compiled=False, rounds=3)
    row = rows[-1]
    details |= {f"{kind}_ms": samples.median for kind, samples in row.samples.items()}
    times = ", ".join(f"{kind} {samples.median:.3g} ms" for kind, samples in row.samples.items())
    if row is not rows[0]:
        faster = [ratio(rows, "reference", row, kind) for kind in row.samples]
        times += f" ({' and '.join(f'{x:.1f}' for x in faster if x)} times as fast as the reference)"
    details["dtypes"] = list(DTYPES)
    sentence = f"{len(compared)} checks in {', '.join(DTYPES)} agree; {SHAPES[TIMED].about}: {times}"
    if device == "cpu":
        details["threads"] = torch.get_num_threads()
        sentence += f"; {details['threads']} threads"
    if backend == "cpu":
        details |= {"runs_on": cpu.thread_source(), "cache_dir": str(cpu.cache_dir())}
        sentence += f" ({cpu.thread_source()}), kernels kept in {cpu.cache_dir()}"
    return Finding(name=name + (", used by default" if chosen else ""), works=True, sentence=sentence, details=details)


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        none = "PyTorch finds none" if torch.version.cuda else "this PyTorch is built without CUDA"
        return Finding(name="GPU", works=False, required=False, sentence=f"{none}: everything runs on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    reason = cuda.why_not()
    sentence = f"{', '.join(names)}; deformable attention there by 'cuda'"
    if reason is not None:
        sentence = f"{', '.join(names)}, but {reason}; until then deformable attention there needs backend='reference'"
    return Finding(name="GPU", works=reason is None, required=False, sentence=sentence, details={"names": names})


def _ray() -> Finding:
    started = time.perf_counter()
    try:
        answer = ask_a_worker()
    except ClusterError as error:
        return Finding(name="Ray", works=False, sentence=str(error))
    seconds = time.perf_counter() - started
    sentence = f"{answer['ray']} started, a worker imported rhobench, all stopped: {seconds:.1f} s; {answer['access']}"
    return Finding(name="Ray", works=True, sentence=sentence, details=answer | {"seconds": seconds})


def _browser() -> Finding:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    sentence = found or "no Chromium on the path: pages open in any browser, but their tests are skipped"
    return Finding(name="browser", works=found is not None, required=False, sentence=sentence)

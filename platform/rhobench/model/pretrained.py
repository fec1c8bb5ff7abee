"""Pretrained backbone weights from a file or from an installed Python package, without any download.

Checkpoints name a backbone in many ways: with "module." or "backbone." before every key, as the part "encoder_q" of a
larger network, with numbers where the network was wrapped in a ``Sequential``. The names and the prefix that give every
tensor of the backbone are found by trying; a file that gives fewer is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rhobench.config import BackboneConfig
from rhobench.model.swin import is_swin

_PREFERRED = (("online", "target"), ("encoder_q", "encoder_k"), ("teacher", "student"))
"""Of two networks that fit, whose prefixes differ by these words alone, the first is taken: what the authors of BYOL,
SCRL, MoCo and DINO hand on."""
_COUNTER = "num_batches_tracked"
_SHOWN = 5
"""Keys that a sentence lists before it counts the others."""


class BackboneError(ValueError):
    """A backbone that does not exist, or weights that do not fit it."""


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """What a backbone took from a file."""

    file: str
    """Name of the file."""
    sha256: str
    """Of its bytes."""
    names: str
    """Whose names the file has."""
    prefix: str
    """What stands before each of them."""
    used: dict[str, str]
    """Key of the backbone -> key of the file, for all of the backbone but the counters of its norms."""
    unused: list[str]
    """Keys of the file that the backbone has no place for, such as a classifier's; counters of norms last."""

    def as_record(self) -> dict[str, Any]:
        """For the record of a run; keys that were not used are shortened to a line."""
        counts = {"used": f"{len(self.used)} tensors", "unused": _shortened(self.unused)}
        return {"file": self.file, "sha256": self.sha256, "names": self.names, "prefix": self.prefix, **counts}


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """One way of understanding the keys of a file."""

    names: str
    prefix: str
    sources: dict[str, str]
    """Key of the backbone -> key of the file."""
    misfits: list[str]
    """Keys of the backbone that the file lacks, or has in another shape."""


def load_weights(body: nn.Module, config: BackboneConfig) -> LoadedWeights:
    """Load ``config.weights`` into ``body``, a timm feature extractor of ``config.name`` or a Swin.

    Where no names fit, tensors are matched by order against the whole timm model, and every shape must agree:
    EfficientNet checkpoints of other libraries differ in nothing but names.

    Raises:
        BackboneError: there is no such file or package, or not every tensor of the backbone has its place in it, or
            several networks in the file have them all.
    """
    file = weights_file(config.weights or "")
    state, own = _read(file), body.state_dict()
    # Norms are frozen and never count batches, and a Swin's last norm gives way to one for each map.
    idle = ("norm.weight", "norm.bias") if is_swin(config.name) else ()
    wanted = {key: tensor for key, tensor in own.items() if not key.endswith(_COUNTER) and key not in idle}
    readings = list(_readings(body, wanted, state, config))
    fitting = [reading for reading in readings if not reading.misfits] or list(_by_order(wanted, state, config))
    if not fitting:
        raise BackboneError(_refusal(file, config, len(wanted), readings))
    reading = _only_one(fitting, file)
    body.load_state_dict(own | {key: state[name] for key, name in reading.sources.items()})
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    taken = set(reading.sources.values())
    return LoadedWeights(
        file=file.name,
        sha256=digest,
        names=reading.names,
        prefix=reading.prefix,
        used=reading.sources,
        unused=sorted((key for key in state if key not in taken), key=lambda key: key.endswith(_COUNTER)),
    )


def _read(file: Path) -> dict[str, Tensor]:
    """Every tensor of a file, those in nested dictionaries under their path: "online_network_state_dict.encoder.0"."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # in which official checkpoints keep settings
            content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        sentence = "is damaged or no file of weights: download it again"
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            sentence = f"would run {foreign[1]} when it is loaded, so it was not: save its state_dict alone"
        raise BackboneError(f"{file.name} {sentence}.") from error
    return dict(_tensors(content, ""))


def _tensors(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str):  # an optimiser numbers its tensors
                yield from _tensors(value, f"{prefix}.{key}" if prefix else key)


def _readings(
    body: nn.Module, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], config: BackboneConfig
) -> Iterator[_Reading]:
    """What each kind of names finds under each prefix that any of its names has in the file."""
    files = {_plain(key): key for key in state}
    for kind, names in _kinds(body, wanted, config):
        ends = tuple(names.values())
        found = [(plain, end) for plain in files if plain.endswith(ends) for end in ends if plain.endswith(end)]
        prefixes = dict.fromkeys(files[plain][: -len(end)] for plain, end in found)
        for prefix in prefixes:
            if prefix and not prefix.endswith("."):
                continue
            if config.weights_prefix is not None and prefix.rstrip(".") != config.weights_prefix.rstrip("."):
                continue
            start = _plain(prefix)
            sources = {key: files[start + name] for key, name in names.items() if start + name in files}
            misfits = [k for k, v in wanted.items() if k not in sources or state[sources[k]].shape != v.shape]
            yield _Reading(names=kind, prefix=prefix, sources=sources, misfits=misfits)


def _kinds(
    body: nn.Module, wanted: Mapping[str, Tensor], config: BackboneConfig
) -> Iterator[tuple[str, dict[str, str]]]:
    """Kinds of names, and for each the plain name of every key of the backbone."""
    yield "timm's names", {key: _plain(key.removeprefix("model.")) for key in wanted}
    if is_swin(config.name):  # there a stage ends with the merging of patches with which it starts in timm
        merging = re.compile(r"layers\.(\d+)\.downsample")
        official = {key: merging.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample", key) for key in wanted}
        yield "the official Swin's names", {key: _plain(name) for key, name in official.items()}
    # What torch.nn.Sequential(*network.children()) saves: SCRL's "encoder.4.0.conv1.weight" is "layer1.0.conv1.weight".
    numbers = {name: str(i) for i, (name, _) in enumerate(body.named_children())}
    split = {key: key.split(".", 1) for key in wanted}
    yield "numbers for names", {key: _plain(f"{numbers[first]}.{rest}") for key, (first, rest) in split.items()}


def _plain(key: str) -> str:
    """What the names of a timm model and of its feature extractor have in common: "stages.0" may become "stages_0"."""
    return key.replace(".", "_")


def _by_order(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], config: BackboneConfig) -> Iterator[_Reading]:
    """The file as the whole timm model, tensor by tensor, if every shape agrees."""
    model = timm.create_model(config.name).state_dict()
    if config.weights_prefix is None and [v.shape for v in state.values()] == [v.shape for v in model.values()]:
        names = {_plain(key): name for key, name in zip(model, state, strict=True)}
        sources = {key: names[_plain(key.removeprefix("model."))] for key in wanted}
        yield _Reading(names="other names, in timm's order", prefix="", sources=sources, misfits=[])


def _only_one(fitting: list[_Reading], file: Path) -> _Reading:
    prefixes = {reading.prefix for reading in fitting}
    for first, second in _PREFERRED:
        prefixes -= {p for p in prefixes if second in p and p.replace(second, first) in prefixes}
    if len(prefixes) > 1:
        raise BackboneError(
            f"{file.name} holds several networks that fit, with {', '.join(map(repr, sorted(prefixes)))} before their "
            "names: choose one with model.backbone.weights_prefix."
        )
    return next(reading for reading in fitting if reading.prefix in prefixes)


def _refusal(file: Path, config: BackboneConfig, wanted: int, readings: list[_Reading]) -> str:
    head = f"{file.name} does not fit the backbone {config.name!r}: "
    tail = " Use weights of that model, or name another model.backbone.name."
    under = "" if config.weights_prefix is None else f" like {config.weights_prefix!r}"
    best = min(readings, key=lambda reading: (len(reading.misfits), -len(reading.sources)), default=None)
    if best is None or 2 * len(best.sources) < wanted:  # names such as "bn1.weight" are found anywhere
        return (
            f"{head}under no prefix{under} it has half of the timm model's names, and its shapes differ in order.{tail}"
        )
    missing = [key for key in best.misfits if key not in best.sources]
    wrong = [key for key in best.misfits if key in best.sources]
    return (
        f"{head}at best, with {best.names} after {best.prefix!r}, {wanted - len(best.misfits)} of its {wanted} tensors "
        f"are there; missing: {_shortened(missing)}; of another shape: {_shortened(wrong)}.{tail}"
    )


def _shortened(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more if keys else "none"


def weights_file(source: str) -> Path:
    """The file that ``BackboneConfig.weights`` means: a path, or the one checkpoint of "package:NAME".

    Raises:
        BackboneError: there is no such file or package.
    """
    if not source.startswith("package:"):
        if not Path(source).is_file():
            raise BackboneError(f"model.backbone.weights={source!r} is not a file, nor 'timm', nor 'package:NAME'.")
        return Path(source)
    package = source.removeprefix("package:")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(f"The Python package {package!r} is not installed: pip install {package.replace('_', '-')}")
    files = sorted(f for root in spec.submodule_search_locations for f in Path(root).rglob("*.pth"))
    if len(files) != 1:
        raise BackboneError(f"The package {package!r} holds {len(files)} .pth files; exactly one was expected.")
    return files[0]

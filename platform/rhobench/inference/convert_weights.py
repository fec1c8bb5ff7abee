"""Checkpoints of others as artifacts of ours, and ours in the official layout again.

Nothing in a checkpoint is executed: pickles are read by torch's restricted unpickler, which makes tensors and plain
containers, and here an ``argparse.Namespace`` besides, in which the official code keeps how the model was trained.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from rhobench.config import FAMILIES, BackboneConfig, ModelConfig, RunConfig
from rhobench.config.model_zoo import BACKBONES, COCO_CLASSES, find_model
from rhobench.config.paths import to_dict, with_values
from rhobench.data import Categories
from rhobench.data.annotations import read_annotations
from rhobench.measure.artifact import load_artifact, replacing, write_artifact
from rhobench.model import MODELS, build_model
from rhobench.model.backbone import Backbone
from rhobench.model.hugging_face import is_hugging_face, to_official
from rhobench.model.official import WeightsError, load_official, official_state, without_prefix
from rhobench.model.pretrained import LoadedWeights

Layout = Literal["official", "transformers"]

_SWITCHES = ("with_box_refine", "two_stage", "eff_query_init", "eff_specific_head")
_FIELDS = {
    **{name: name for name in (*_SWITCHES, "rho", "use_enc_aux_loss", "hidden_dim", "enc_layers", "dec_layers")},
    **{name: name for name in ("num_queries", "num_feature_levels", "dropout")},
    "nheads": "num_heads",
    "dim_feedforward": "ffn_dim",
    "enc_n_points": "num_points",
    "dec_n_points": "num_points",
}
"""Argument of the official code -> field of ``ModelConfig``."""

_NO_CHECKPOINTS = {
    (b"<!doctype", b"<html", b"<?xml"): "a web page and no checkpoint: download the file itself",
    (b"version https://git-lfs",): "a pointer of Git LFS and no checkpoint: run `git lfs pull`",
    # What torch.save writes is a zip archive or, if old, pickles of protocol 2.
    (b"\x80\x03", b"\x80\x04", b"\x80\x05"): "a plain pickle, which can run code when it is loaded, so it was not: "
    "get a checkpoint that torch.save wrote",
}
"""How files start that people take for checkpoints, and what is said of them."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file of weights holds."""

    state: dict[str, Tensor]
    """Under official names."""
    layout: Layout
    """Whose names the file has."""
    args: Mapping[str, Any]
    """Arguments of the training under their official names; empty where the file has none."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An artifact that was made from a checkpoint."""

    file: Path
    layout: Layout
    config: ModelConfig
    tensors: int
    params_m: float
    """Millions of parameters, frozen ones included."""
    ignored: list[str]
    """Keys of the file that are no weights."""
    notes: list[str]
    """What the file does not say and was taken from the model's name."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        said = {"rho": self.config.rho, "num_classes": self.config.num_classes, "config": to_dict(self.config)}
        return {**vars(self), **said, "file": str(self.file)}


def import_weights(
    file: Path, name: str, out: Path, *, rho: float | None = None, annotations: Path | None = None
) -> Imported:
    """Make an artifact of a checkpoint, whole or not at all.

    Args:
        file: .pth, .pt or .bin that torch wrote, or .safetensors; official or transformers layout.
        name: the model that it holds, as in ``find_model``. Sizes come from the checkpoint where it says them.
        out: the artifact to write.
        rho: share of the updated tokens, where the checkpoint does not say it.
        annotations: COCO json whose categories the model was trained on. None: COCO's for 91 classes, else numbers.

    Raises:
        WeightsError: the file cannot be read, or does not hold this model.
        ConfigError: there is no such model.
    """
    config = find_model(name)
    _require_target(out, file)
    checkpoint = read_checkpoint(file)
    config, notes = _settle(config, name, checkpoint, file, rho)
    model = build_model(config)
    categories = _categories(model.num_classes, annotations)
    try:
        loaded = load_official(model, checkpoint.state)
    except WeightsError as error:
        raise WeightsError(f"{file} is not {name}. {error}") from error
    write_artifact(out, model, RunConfig(experiment="imported", model=config), categories)
    return Imported(
        file=out,
        layout=checkpoint.layout,
        config=config,
        tensors=len(model.state_dict()),
        params_m=sum(p.numel() for p in model.parameters()) / 1e6,
        ignored=loaded.ignored,
        notes=notes,
    )


def export_weights(artifact: Path, out: Path) -> int:
    """Write an artifact as {"model": state_dict} with the official names, which the official code loads.

    Returns:
        The number of its keys, every name of a head counted.

    Raises:
        ArtifactError: ``artifact`` is none.
        WeightsError: ``out`` cannot be written.
    """
    _require_target(out, artifact)
    state = official_state(load_artifact(artifact).model)
    with replacing(out) as temporary:
        torch.save({"model": state}, temporary)
    return len(state)


def backbone_weights(file: Path, name: str, prefix: str | None = None) -> LoadedWeights:
    """What the backbone called ``name`` takes from ``file``, as in a training with ``model.backbone.weights=file``.

    Args:
        file: a state_dict, or a checkpoint that holds one.
        name: of ``BACKBONES`` or of timm.
        prefix: what stands before the backbone's names in the file; None: found by comparing names.

    Raises:
        BackboneError: the file does not give the backbone every tensor.
    """
    config = BackboneConfig(name=BACKBONES.get(name, name), weights=str(file), weights_prefix=prefix, frozen="none")
    loaded = Backbone(config).loaded
    assert loaded is not None
    return loaded


def read_checkpoint(file: Path) -> Checkpoint:
    """The weights in ``file``, and what it says of their training.

    Raises:
        WeightsError: there is no such file, or it is damaged, holds code, or holds no DETR.
    """
    if not file.is_file():
        raise WeightsError(f"There is no file {file}.")
    with file.open("rb") as stream:
        start = stream.read(200).lstrip().lower()
    for marks, sentence in _NO_CHECKPOINTS.items():
        if start.startswith(marks):
            raise WeightsError(f"{file} is {sentence}.")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    args = content.get("args", {})
    content = next((content[k] for k in ("model", "state_dict") if isinstance(content.get(k), Mapping)), content)
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state or len(state) < len(content):
        raise WeightsError(f"{file} holds no state_dict, neither itself nor under 'model' or 'state_dict'.")
    state = without_prefix(state)
    layout: Layout = "transformers" if is_hugging_face(state) else "official"
    return Checkpoint(
        state=to_official(state) if layout == "transformers" else state,
        layout=layout,
        args=vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, dict) else {},
    )


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
        if metadata.get("format", "").startswith("rhobench/"):
            raise WeightsError(f"{file} is a model of rhobench already: use it as it is, or export it.")
        return load_file(file)
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged or no safetensors file ({error}): download it again.") from error


def _read_torch(file: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about how old the file is
            # Mapped, so that the optimiser's state, twice as large as the weights, is not read.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise anything
        sentence = "is damaged or no checkpoint of PyTorch: download it again"
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            sentence = f"would run {foreign[1]} when it is loaded, so it was not: get a checkpoint of tensors alone"
        raise WeightsError(f"{file} {sentence}.") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file} holds a {type(content).__name__} and no state_dict.")
    return content


def _require_target(out: Path, source: Path) -> None:
    if not out.parent.is_dir():
        raise WeightsError(f"There is no folder {out.parent} to write {out.name} into: make it first.")
    if out.is_dir():
        raise WeightsError(f"--out {out} is a folder: name a file in it.")
    if out.exists() and source.exists() and out.samefile(source):
        raise WeightsError(f"--out {out} is the file that is read: choose another name.")


def _settle(
    config: ModelConfig, name: str, checkpoint: Checkpoint, file: Path, rho: float | None
) -> tuple[ModelConfig, list[str]]:
    """The configuration of the weights in ``file``: the official one of the model, with what the file says."""
    if rho is not None and config.rho is None:
        raise WeightsError(f"{name} has a dense encoder, so --rho {rho} means nothing: leave it out.")
    given = _from_args(checkpoint.args, file)
    if wrong := next(_contradictions(config, checkpoint.args), None):
        right = next((n for n, c in MODELS.items() if not any(_contradictions(c, checkpoint.args))), None)
        hint = f"use --model {right}" if right else "choose the model that it is"
        raise WeightsError(f"{file} was trained with {wrong[0]}, as its args say, but {name} has {wrong[1]}: {hint}.")
    if rho is not None and given.get("rho", rho) != rho:
        raise WeightsError(
            f"{file} was trained with rho={given['rho']}, as its args say, and not --rho {rho}: leave --rho out."
        )
    notes = []
    if config.rho is not None and rho is None and "rho" not in given:
        notes.append(f"the file does not say its rho: {config.rho} is assumed, --rho R changes it")
    config = with_values(config, given | ({"rho": rho} if rho is not None else {}))
    return with_values(config, _from_weights(config, checkpoint.state) | given), notes


def _from_args(args: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Values by field of ``ModelConfig``."""
    given: dict[str, Any] = {}
    for argument, field in _FIELDS.items():
        if argument not in args:
            continue
        value = args[argument] or None if field == "rho" else args[argument]  # the official rho of 0 is the dense one
        if given.setdefault(field, value) != value:
            raise WeightsError(f"{file} has args.{argument}={value!r}, but {field}={given[field]!r} elsewhere.")
    return given


def _contradictions(config: ModelConfig, args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the arguments say of the family and the backbone, and what ``config`` is instead."""
    wanted: dict[str, Any] = {"backbone": config.backbone.name, "dilation": config.backbone.dilation}
    wanted |= {switch: getattr(config, switch) for switch in _SWITCHES if config.two_stage or "eff" not in switch}
    wanted |= {field: fixed for field, fixed in FAMILIES[config.name].items() if field != "rho"}
    said = dict(args)
    if "backbone" in said:
        short = str(said["backbone"]).replace("-", "_")  # "swin-t" is our "swin_t"
        said["backbone"] = BACKBONES.get(short, short)
    for name, value in wanted.items():
        if said.get(name, value) != value:
            yield f"{name}={args[name]}", f"{name}={value}"
    if "rho" in args and bool(args["rho"]) != (config.rho is not None):
        yield f"rho={args['rho']}", f"rho={config.rho}"


def _from_weights(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What names and shapes tell, by field of ``ModelConfig``."""
    found: dict[str, Any] = {}
    if "class_embed.weight" in state:
        found["num_classes"] = len(state["class_embed.weight"]) - 1  # DETR has a row for "no object"
    for name in ("transformer.decoder.class_embed.0.weight", "class_embed.0.weight"):
        if name in state:
            found["num_classes"] = len(state[name])
    if "query_embed.weight" in state:
        found["num_queries"] = len(state["query_embed.weight"])
    if "use_enc_aux_loss" not in FAMILIES[config.name]:
        first = f"class_embed.{config.dec_layers + config.two_stage}.weight"
        found["use_enc_aux_loss"] = first in state or "transformer.encoder.class_embed.0.weight" in state
    if config.name == "refined_deformable_detr":
        found["refine_single_stage"] = any(key.startswith("transformer.decoder.bbox_embed.") for key in state)
    return found


def _categories(classes: int, annotations: Path | None) -> Categories:
    """What each label means. The official labels are raw category ids, so ids that no category has get a name too."""
    names: dict[int, str] = {}
    if annotations is not None:
        names = _category_names(annotations)
        if len(names) == classes:  # labels count the categories in the order of their ids
            return Categories(tuple(sorted(names)), tuple(names[i] for i in sorted(names)))
        if not names or max(names) >= classes:
            raise WeightsError(
                f"{annotations} has {len(names)} categories with ids up to {max(names, default=0)}, "
                f"but the weights have {classes} classes: give the annotations of their training."
            )
    elif classes == COCO_CLASSES:
        text = importlib.resources.files("rhobench.data").joinpath("coco_categories.json").read_text()
        names = {category["id"]: category["name"] for category in json.loads(text)}
    hole = "N/A" if names else "class {}"
    return Categories(tuple(range(classes)), tuple(names.get(i, hole.format(i)) for i in range(classes)))


def _category_names(annotations: Path) -> dict[int, str]:
    try:
        return {category["id"]: category["name"] for category in read_annotations(annotations)["categories"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{annotations} is no COCO json with categories ({error!r}): give the annotations of the training."
        ) from error

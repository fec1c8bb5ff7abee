"""``rhobench weights``: lossless import and export of checkpoints, and messages for files that cannot be used."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rhobench import cli
from rhobench.config import BackboneConfig, ModelConfig, RunConfig
from rhobench.data import Categories
from rhobench.measure import artifact as artifacts
from rhobench.measure.artifact import load_artifact, write_artifact
from rhobench.model import build_model
from rhobench.model.official import official_state

MODEL = "sparse_detr_test_resnet"
"""A tiny model; any timm backbone may follow the family in a name."""
ARGS: dict[str, Any] = {
    "backbone": "test_resnet",
    "dilation": False,
    "with_box_refine": True,
    "two_stage": True,
    "eff_query_init": True,
    "eff_specific_head": True,
    "use_enc_aux_loss": True,
    "rho": 0.1,
    "num_queries": 12,
    "hidden_dim": 32,
    "nheads": 4,
    "enc_layers": 2,
    "dec_layers": 3,
    "dim_feedforward": 48,
    "num_feature_levels": 4,
    "enc_n_points": 4,
    "dec_n_points": 4,
    "dropout": 0.0,
    "output_dir": "exps/r50",
}
"""The relevant arguments that the official code stores in a checkpoint, and an output path."""


class CommandResult(NamedTuple):
    status: int
    out: list[str]
    messages: list[str]


Run = Callable[..., CommandResult]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def rhobench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["rhobench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert all(line.startswith("rhobench: ") for line in lines), captured.err
        return CommandResult(int(ended.value.code or 0), captured.out.splitlines(), lines)

    return run


def state_of(num_classes: int = 91, **changes: Any) -> dict[str, Tensor]:
    config = ModelConfig(
        backbone=BackboneConfig(name="test_resnet"),
        num_queries=12,
        hidden_dim=32,
        num_heads=4,
        enc_layers=2,
        dec_layers=3,
        ffn_dim=48,
        num_classes=num_classes,
        **changes,
    )
    torch.manual_seed(0)
    return official_state(build_model(config))


def save(file: Path, state: dict[str, Tensor], **args: Any) -> Path:
    """An official checkpoint, with the leftovers of a FLOP counter and the state of an optimiser."""
    counters = {"transformer.total_ops": torch.zeros(1, dtype=torch.float64)}
    content = {"model": state | counters, "optimizer": {"state": {0: {"step": 3}}}, "epoch": 49}
    torch.save(content | {"args": argparse.Namespace(**(ARGS | args))}, file)
    return file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "official.pth", state_of())


def test_import_and_export_are_lossless(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    model, back, again = tmp_path / "m.safetensors", tmp_path / "back.pth", tmp_path / "again.safetensors"
    done = rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", model, "--json")
    assert (done.status, done.messages) == (0, [])
    report = json.loads(done.out[-1])
    assert (report["layout"], report["rho"], report["num_classes"]) == ("official", 0.1, 91)
    assert report["ignored"] == ["transformer.total_ops"]
    assert rhobench("weights", "export", model, "--out", back, "--json").status == 0
    exported, original = torch.load(back, weights_only=True)["model"], state_of()
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[key], original[key]) for key in original)
    # The exported file has no args, and the sizes of this model are not those of its name.
    save(back, exported)
    assert rhobench("weights", "import", back, "--model", MODEL, "--out", again).status == 0
    first, second = load_file(model), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_artifact_contains_the_configuration_and_categories(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", tmp_path / "m.safetensors")
    artifact = load_artifact(tmp_path / "m.safetensors")
    model = artifact.config.model
    assert artifact.config.experiment == "imported"
    assert (model.rho, model.enc_layers, model.dec_layers, model.ffn_dim) == (0.1, 2, 3, 48)
    assert artifact.categories.ids == tuple(range(91))
    names = artifact.categories.names
    assert (names[0], names[1], names[12], names[90]) == ("N/A", "person", "N/A", "toothbrush")
    assert sum(name != "N/A" for name in names) == 80


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "family": (
        {"rho": None, "use_enc_aux_loss": False, "name": "efficient_detr"},
        {"rho": 0.0, "use_enc_aux_loss": False, "backbone": "resnet50"},
        "sparse_detr_r50",
        "was trained with rho=0.0 according to its args, but sparse_detr_r50 has rho=0.3: "
        "use --model efficient_detr_r50.",
    ),
    "switch": (
        {},
        {"eff_query_init": False},
        MODEL,
        f"was trained with eff_query_init=False according to its args, but {MODEL} has eff_query_init=True: choose a",
    ),
    "backbone": (
        {},
        {"backbone": "swin-t"},
        "sparse_detr_r50",
        "was trained with backbone=swin-t according to its args, but sparse_detr_r50 has backbone=resnet50: "
        "use --model sparse_detr_swin_t.",
    ),
    "points": ({}, {"dec_n_points": 2}, MODEL, "has args.dec_n_points=2, but num_points=4 by another argument."),
}
"""Case -> fields of the model in the file, its args, --model, and the expected message."""


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_args_that_contradict_the_model_are_reported(rhobench: Run, tmp_path: Path, case: str) -> None:
    weights, args, model, message = CONTRADICTIONS[case]
    file = save(tmp_path / "official.pth", state_of(**weights), **args)
    done = rhobench("weights", "import", file, "--model", model, "--out", tmp_path / "m.safetensors")
    assert done.status == 2
    assert len(done.messages) == 1
    assert message in done.messages[0]


def test_rho_of_the_args_and_of_the_command_must_agree(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    wrong = rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", out, "--rho", 0.2)
    assert wrong.status == 2
    assert "trained with rho=0.1 according to its args, not with --rho 0.2" in wrong.messages[0]
    dense = rhobench("weights", "import", checkpoint, "--model", "efficient_detr_r50", "--out", out, "--rho", 0.2)
    assert dense.status == 2
    assert "efficient_detr_r50 has a dense encoder" in dense.messages[0]


def full_size(**changes: Any) -> dict[str, Tensor]:
    """Weights with the default sizes of the model, for files without args."""
    config = ModelConfig(backbone=BackboneConfig(name="test_resnet"), **({"num_classes": 91} | changes))
    return official_state(build_model(config))


def test_without_args_the_configuration_follows_from_the_keys(rhobench: Run, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    torch.save(full_size(use_enc_aux_loss=False), tmp_path / "bare.pth")
    done = rhobench("weights", "import", tmp_path / "bare.pth", "--model", MODEL, "--out", out)
    assert done.status == 0
    assert "the file does not contain rho: assuming 0.3" in done.messages[0]
    assert load_artifact(out).config.model.use_enc_aux_loss is False
    done = rhobench("weights", "import", tmp_path / "bare.pth", "--model", MODEL, "--out", out, "--rho", 0.5)
    assert (done.status, done.messages) == (0, [])
    assert load_artifact(out).config.model.rho == 0.5


@pytest.mark.parametrize("refines", [False, True])
def test_single_stage_refinement_follows_from_the_keys(rhobench: Run, tmp_path: Path, refines: bool) -> None:
    """The code of Deformable DETR refines, that of Sparse DETR does not; only the former lists heads in the decoder."""
    switches = {"two_stage": False, "rho": None, "use_enc_aux_loss": False, "refine_single_stage": refines}
    torch.save(full_size(name="refined_deformable_detr", num_queries=40, **switches), tmp_path / "bare.pth")
    model = "refined_deformable_detr_test_resnet"
    out = tmp_path / "m.safetensors"
    assert rhobench("weights", "import", tmp_path / "bare.pth", "--model", model, "--out", out).status == 0
    config = load_artifact(out).config.model
    assert (config.refine_single_stage, config.num_queries) == (refines, 40)


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (None, ("class 0", "class 1", "class 2")),
        ((4, 9, 70), ("c4", "c9", "c70")),  # labels count the categories
        ((1, 2), ("N/A", "c1", "c2")),  # labels are ids
    ],
)
def test_classes_get_the_names_of_their_dataset(
    rhobench: Run, tmp_path: Path, ids: tuple[int, ...] | None, names: tuple[str, ...]
) -> None:
    file, out = save(tmp_path / "official.pth", state_of(num_classes=3)), tmp_path / "m.safetensors"
    option: list[object] = []
    if ids is not None:
        annotations = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"c{i}"} for i in ids]}
        (tmp_path / "a.json").write_text(json.dumps(annotations))
        option = ["--categories", tmp_path / "a.json"]
    assert rhobench("weights", "import", file, "--model", MODEL, "--out", out, *option).status == 0
    assert load_artifact(out).categories.names == names


@pytest.mark.parametrize("content", ["no json", '{"images": []}', '{"categories": [{"id": 7, "name": "c"}]}'])
def test_annotations_of_another_dataset_are_rejected(rhobench: Run, tmp_path: Path, content: str) -> None:
    file = save(tmp_path / "official.pth", state_of(num_classes=3))
    (tmp_path / "a.json").write_text(content)
    out = tmp_path / "m.safetensors"
    done = rhobench("weights", "import", file, "--model", MODEL, "--out", out, "--categories", tmp_path / "a.json")
    assert done.status == 2
    assert "a.json" in done.messages[0]
    assert not out.exists()


class Payload:
    """An object whose unpickling creates the file ``PWNED``."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2000])


def truncated_old(file: Path) -> None:
    torch.save({"model": state_of()}, file, _use_new_zipfile_serialization=False)
    truncated(file)


def poisoned(file: Path) -> None:
    torch.save({"model": state_of(), "args": Payload(file.parent / "PWNED")}, file)


def poisoned_old(file: Path) -> None:
    content = {"model": state_of(), "args": Payload(file.parent / "PWNED")}
    torch.save(content, file, _use_new_zipfile_serialization=False)


def plain_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps({"model": Payload(file.parent / "PWNED")}))


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "empty": (lambda f: f.write_bytes(b""), "is damaged or not a PyTorch checkpoint"),
    "noise": (lambda f: f.write_bytes(bytes(range(256))), "is damaged or not a PyTorch checkpoint"),
    "truncated": (truncated, "is damaged or not a PyTorch checkpoint"),
    "truncated_old": (truncated_old, "is damaged or not a PyTorch checkpoint"),
    "poisoned": (poisoned, f"would execute {os.system.__module__}.system on loading"),
    "poisoned_old": (poisoned_old, f"would execute {os.system.__module__}.system on loading"),
    "plain_pickle": (plain_pickle, "is a plain pickle"),
    "web_page": (lambda f: f.write_text("\n<!DOCTYPE html><html>Quota exceeded</html>"), "is a web page"),
    "lfs": (lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
    "list": (lambda f: torch.save([1, 2], f), "contains a list instead of a state_dict"),
    "no_tensors": (lambda f: torch.save({"epoch": 3}, f), "contains no state_dict"),
    "other_model": (lambda f: torch.save({"fc.weight": torch.zeros(3)}, f), "1 unexpected: fc.weight"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_an_unusable_file_is_reported_and_nothing_is_written(
    rhobench: Run, checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    spoil, message = BAD_FILES[kind]
    spoil(checkpoint)
    done = rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", tmp_path / "m.safetensors")
    assert done.status == 2
    assert len(done.messages) == 1
    assert str(checkpoint) in done.messages[0]
    assert message in done.messages[0]
    assert {file.name for file in tmp_path.iterdir()} <= {checkpoint.name}


def test_external_and_rhobench_safetensors_are_distinguished(rhobench: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "their.safetensors", tmp_path / "m.safetensors"
    once = {key: t.clone() for key, t in full_size().items() if not key.startswith(("class_embed", "bbox_embed"))}
    save_file(once, file)  # tensors that share memory cannot be saved, so every head has one name
    assert rhobench("weights", "import", file, "--model", MODEL, "--out", out).status == 0
    ours = rhobench("weights", "import", out, "--model", MODEL, "--out", tmp_path / "again.safetensors")
    assert ours.status == 2
    assert "is already a rhobench model" in ours.messages[0]
    file.write_bytes(file.read_bytes()[:-10])
    cut = rhobench("weights", "import", file, "--model", MODEL, "--out", tmp_path / "cut.safetensors")
    assert cut.status == 2
    assert "is damaged or not a safetensors file" in cut.messages[0]


def test_invalid_output_paths_are_reported_before_reading(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    command = ("weights", "import", checkpoint, "--model", MODEL, "--out")
    assert "nowhere does not exist" in rhobench(*command, tmp_path / "nowhere" / "m.safetensors").messages[0]
    assert "is a folder" in rhobench(*command, tmp_path).messages[0]
    assert "is the input file" in rhobench(*command, checkpoint).messages[0]
    assert (
        "Did you mean"
        in rhobench("weights", "import", checkpoint, "--model", "sparse_det_r50", "--out", "m").messages[0]
    )


def test_only_artifacts_are_exported(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = rhobench("weights", "export", checkpoint, "--out", tmp_path / "out.pth")
    assert done.status == 2
    assert len(done.messages) == 1
    assert not (tmp_path / "out.pth").exists()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    model = build_model(ModelConfig(backbone=BackboneConfig(name="test_resnet"), hidden_dim=32, num_classes=2))
    (tmp_path / "m.safetensors").write_text("old")
    monkeypatch.setattr(artifacts, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_artifact(tmp_path / "m.safetensors", model, RunConfig(experiment="x"), Categories((1, 2), ("a", "b")))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"m.safetensors": "old"}


def test_the_tensors_that_a_backbone_loads_are_listed(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    """From the checkpoint of a whole detector; a file without all tensors is an error."""
    done = rhobench("weights", "backbone", checkpoint, "test_resnet", "--verbose", "--json")
    assert done.status == 0
    report = json.loads(done.out[-1])
    assert report["prefix"] == "model.backbone.0.body."
    assert report["used"]["bn1.weight"] == "model.backbone.0.body.bn1.weight"
    listed = {line.removeprefix("  not used: ") for line in done.out if line.startswith("  not used: ")}
    assert listed == set(report["unused"])
    assert "model.transformer.level_embed" in listed
    wrong = rhobench("weights", "backbone", checkpoint, "r50")
    assert wrong.status == 2
    assert "does not fit the backbone 'resnet50'" in wrong.messages[0]

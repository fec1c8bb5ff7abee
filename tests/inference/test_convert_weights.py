"""``rhobench weights``: checkpoints come in and go out bit for bit, and bad ones are told in a sentence."""

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
"""Any timm backbone may follow the family; this one is tiny."""
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
"""What the official code writes into a checkpoint, as far as it matters, and a path."""


class Done(NamedTuple):
    status: int
    out: list[str]
    sentences: list[str]


Run = Callable[..., Done]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def rhobench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["rhobench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert all(line.startswith("rhobench: ") for line in lines), captured.err
        return Done(int(ended.value.code or 0), captured.out.splitlines(), lines)

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


def test_a_checkpoint_comes_in_and_goes_out_bit_for_bit(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    model, back, again = tmp_path / "m.safetensors", tmp_path / "back.pth", tmp_path / "again.safetensors"
    done = rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", model, "--json")
    assert (done.status, done.sentences) == (0, [])
    told = json.loads(done.out[-1])
    assert (told["layout"], told["rho"], told["num_classes"]) == ("official", 0.1, 91)
    assert told["ignored"] == ["transformer.total_ops"]
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


def test_the_model_says_what_it_is(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", tmp_path / "m.safetensors")
    artifact = load_artifact(tmp_path / "m.safetensors")
    model = artifact.config.model
    assert artifact.config.experiment == "imported"
    assert (model.rho, model.enc_layers, model.dec_layers, model.ffn_dim) == (0.1, 2, 3, 48)
    assert artifact.categories.ids == tuple(range(91))
    names = artifact.categories.names
    assert (names[0], names[1], names[12], names[90]) == ("N/A", "person", "N/A", "toothbrush")
    assert sum(name != "N/A" for name in names) == 80


SAYS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "family": (
        {"rho": None, "use_enc_aux_loss": False, "name": "efficient_detr"},
        {"rho": 0.0, "use_enc_aux_loss": False, "backbone": "resnet50"},
        "sparse_detr_r50",
        "was trained with rho=0.0, as its args say, but sparse_detr_r50 has rho=0.3: use --model efficient_detr_r50.",
    ),
    "switch": (
        {},
        {"eff_query_init": False},
        MODEL,
        f"was trained with eff_query_init=False, as its args say, but {MODEL} has eff_query_init=True: choose the",
    ),
    "backbone": (
        {},
        {"backbone": "swin-t"},
        "sparse_detr_r50",
        "was trained with backbone=swin-t, as its args say, but sparse_detr_r50 has backbone=resnet50: "
        "use --model sparse_detr_swin_t.",
    ),
    "points": ({}, {"dec_n_points": 2}, MODEL, "has args.dec_n_points=2, but num_points=4 elsewhere."),
}
"""What the weights are, what the args say, --model, and the sentence."""


@pytest.mark.parametrize("case", SAYS)
def test_args_that_contradict_the_model_name_both(rhobench: Run, tmp_path: Path, case: str) -> None:
    weights, args, model, sentence = SAYS[case]
    file = save(tmp_path / "official.pth", state_of(**weights), **args)
    done = rhobench("weights", "import", file, "--model", model, "--out", tmp_path / "m.safetensors")
    assert done.status == 2
    assert len(done.sentences) == 1
    assert sentence in done.sentences[0]


def test_rho_of_the_args_and_of_the_command_must_agree(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    wrong = rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", out, "--rho", 0.2)
    assert wrong.status == 2
    assert "trained with rho=0.1, as its args say, and not --rho 0.2" in wrong.sentences[0]
    dense = rhobench("weights", "import", checkpoint, "--model", "efficient_detr_r50", "--out", out, "--rho", 0.2)
    assert dense.status == 2
    assert "efficient_detr_r50 has a dense encoder" in dense.sentences[0]


def full_size(**changes: Any) -> dict[str, Tensor]:
    """Sizes of the name, for files without args."""
    config = ModelConfig(backbone=BackboneConfig(name="test_resnet"), **({"num_classes": 91} | changes))
    return official_state(build_model(config))


def test_a_file_without_args_tells_by_its_keys(rhobench: Run, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    torch.save(full_size(use_enc_aux_loss=False), tmp_path / "bare.pth")
    done = rhobench("weights", "import", tmp_path / "bare.pth", "--model", MODEL, "--out", out)
    assert done.status == 0
    assert "the file does not say its rho: 0.3 is assumed" in done.sentences[0]
    assert load_artifact(out).config.model.use_enc_aux_loss is False
    done = rhobench("weights", "import", tmp_path / "bare.pth", "--model", MODEL, "--out", out, "--rho", 0.5)
    assert (done.status, done.sentences) == (0, [])
    assert load_artifact(out).config.model.rho == 0.5


@pytest.mark.parametrize("refines", [False, True])
def test_whether_a_single_stage_model_refines_shows_in_its_keys(rhobench: Run, tmp_path: Path, refines: bool) -> None:
    """The code of Deformable DETR does, that of Sparse DETR does not; only the first lists the heads in the decoder."""
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
def test_classes_get_the_names_of_their_data_set(
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
def test_annotations_of_another_training_are_refused(rhobench: Run, tmp_path: Path, content: str) -> None:
    file = save(tmp_path / "official.pth", state_of(num_classes=3))
    (tmp_path / "a.json").write_text(content)
    out = tmp_path / "m.safetensors"
    done = rhobench("weights", "import", file, "--model", MODEL, "--out", out, "--categories", tmp_path / "a.json")
    assert done.status == 2
    assert "a.json" in done.sentences[0]
    assert not out.exists()


class Payload:
    """Pickled, it is a call that makes the file ``PWNED``."""

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
    "missing": (Path.unlink, "There is no file"),
    "empty": (lambda f: f.write_bytes(b""), "is damaged or no checkpoint"),
    "noise": (lambda f: f.write_bytes(bytes(range(256))), "is damaged or no checkpoint"),
    "truncated": (truncated, "is damaged or no checkpoint"),
    "truncated_old": (truncated_old, "is damaged or no checkpoint"),
    "poisoned": (poisoned, f"would run {os.system.__module__}.system when it is loaded"),
    "poisoned_old": (poisoned_old, f"would run {os.system.__module__}.system when it is loaded"),
    "plain_pickle": (plain_pickle, "is a plain pickle"),
    "web_page": (lambda f: f.write_text("\n<!DOCTYPE html><html>Quota exceeded</html>"), "is a web page"),
    "lfs": (lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a pointer of Git LFS"),
    "list": (lambda f: torch.save([1, 2], f), "holds a list and no state_dict"),
    "no_tensors": (lambda f: torch.save({"epoch": 3}, f), "holds no state_dict"),
    "other_model": (lambda f: torch.save({"fc.weight": torch.zeros(3)}, f), "1 unexpected: fc.weight"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_a_sentence_and_leaves_nothing(
    rhobench: Run, checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    spoil, sentence = BAD_FILES[kind]
    spoil(checkpoint)
    done = rhobench("weights", "import", checkpoint, "--model", MODEL, "--out", tmp_path / "m.safetensors")
    assert done.status == 2
    assert len(done.sentences) == 1
    assert str(checkpoint) in done.sentences[0]
    assert sentence in done.sentences[0]
    assert {file.name for file in tmp_path.iterdir()} <= {checkpoint.name}


def test_safetensors_of_others_and_of_ours_are_told_apart(rhobench: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "their.safetensors", tmp_path / "m.safetensors"
    once = {key: t.clone() for key, t in full_size().items() if not key.startswith(("class_embed", "bbox_embed"))}
    save_file(once, file)  # tensors that share memory cannot be saved, so every head has one name
    assert rhobench("weights", "import", file, "--model", MODEL, "--out", out).status == 0
    ours = rhobench("weights", "import", out, "--model", MODEL, "--out", tmp_path / "again.safetensors")
    assert ours.status == 2
    assert "is a model of rhobench already" in ours.sentences[0]
    file.write_bytes(file.read_bytes()[:-10])
    cut = rhobench("weights", "import", file, "--model", MODEL, "--out", tmp_path / "cut.safetensors")
    assert cut.status == 2
    assert "is damaged or no safetensors file" in cut.sentences[0]


def test_a_target_that_cannot_be_is_told_before_work(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    command = ("weights", "import", checkpoint, "--model", MODEL, "--out")
    assert "There is no folder" in rhobench(*command, tmp_path / "nowhere" / "m.safetensors").sentences[0]
    assert "is a folder" in rhobench(*command, tmp_path).sentences[0]
    assert "is the file that is read" in rhobench(*command, checkpoint).sentences[0]
    assert (
        "Did you mean"
        in rhobench("weights", "import", checkpoint, "--model", "sparse_det_r50", "--out", "m").sentences[0]
    )


def test_only_models_of_ours_are_exported(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = rhobench("weights", "export", checkpoint, "--out", tmp_path / "out.pth")
    assert done.status == 2
    assert len(done.sentences) == 1
    assert not (tmp_path / "out.pth").exists()


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    model = build_model(ModelConfig(backbone=BackboneConfig(name="test_resnet"), hidden_dim=32, num_classes=2))
    (tmp_path / "m.safetensors").write_text("old")
    monkeypatch.setattr(artifacts, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_artifact(tmp_path / "m.safetensors", model, RunConfig(experiment="x"), Categories((1, 2), ("a", "b")))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"m.safetensors": "old"}


def test_what_a_backbone_takes_from_a_file_is_listed(rhobench: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Here from a whole detector; a file that gives too little is a wrong request."""
    done = rhobench("weights", "backbone", checkpoint, "test_resnet", "--json")
    assert done.status == 0
    said = json.loads(done.out[-1])
    assert said["prefix"] == "model.backbone.0.body."
    assert said["used"]["bn1.weight"] == "model.backbone.0.body.bn1.weight"
    listed = {line.removeprefix("  not used: ") for line in done.out if line.startswith("  not used: ")}
    assert listed == set(said["unused"])
    assert "model.transformer.level_embed" in listed
    wrong = rhobench("weights", "backbone", checkpoint, "r50")
    assert wrong.status == 2
    assert "does not fit the backbone 'resnet50'" in wrong.sentences[0]

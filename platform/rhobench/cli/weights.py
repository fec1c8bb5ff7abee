"""``rhobench weights``: convert checkpoints from and to other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import FAILED, ArtifactArgument, AsJson, command_group, report_problems
from rhobench.cli.progress import progress

app = command_group("Import checkpoints of other code, or export to the official format.")

MAX_LISTED = 5
"""Unused tensors that are listed without ``--verbose``."""


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Official or transformers checkpoint: .pth, .pt, .bin, .safetensors."
        ),
    ],
    model: Annotated[str, typer.Option(help="Model that the file holds: sparse_detr_r50.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help=".safetensors file to write.")],
    rho: Annotated[float | None, typer.Option(help="Share of updated tokens, if the file does not store it.")] = None,
    categories: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            exists=True,
            dir_okay=False,
            help="COCO json with the categories. Default: COCO's own.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert an official or Hugging Face checkpoint, without running any code in it."""
    from rhobench.inference.convert_weights import import_weights

    imported = import_weights(file, model, out, rho=rho, annotations=categories)
    config = imported.config
    size = f"{imported.tensors} tensors, {imported.params_m:.2f} M parameters"
    print(f"{out}: {model} from the {imported.layout} layout, {size}")
    print(f"  rho {config.rho}, encoder auxiliary heads {config.use_enc_aux_loss}, {config.num_classes} classes")
    if imported.ignored:
        print(f"  {len(imported.ignored)} keys are not weights and were ignored, such as {imported.ignored[0]}")
    report_problems(imported.notes)
    if as_json:
        print(json.dumps(imported.as_dict()))


@app.command("backbone")
def backbone(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="File with a state_dict: .pth or .safetensors."
        ),
    ],
    name: Annotated[str, typer.Argument(help="Backbone: r50, swin_t, swin_b or any timm model.")],
    prefix: Annotated[
        str | None, typer.Option(help="Prefix of the backbone's parameter names, if several networks in the file fit.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="List every tensor that is not used.")] = False,
    as_json: AsJson = False,
) -> None:
    """Report which tensors of a file fit a backbone; train from them with --set model.backbone.weights=FILE."""
    from rhobench.inference.convert_weights import backbone_weights

    loaded = backbone_weights(file, name, prefix)
    print(f"{file}: all {len(loaded.used)} tensors of {name}, with {loaded.names} after {loaded.prefix!r}")
    listed = loaded.unused if verbose else loaded.unused[:MAX_LISTED]
    for key in listed:
        print(f"  not used: {key}")
    if len(listed) < len(loaded.unused):
        print(f"  not used: {len(loaded.unused) - len(listed)} more; --verbose or --json lists them")
    if as_json:
        print(json.dumps(vars(loaded)))


@app.command("export")
def export(
    artifact: ArtifactArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help=".pth file to write.")],
    as_json: AsJson = False,
) -> None:
    """Write a model in the format of the official code."""
    from rhobench.inference.convert_weights import export_weights

    keys = export_weights(artifact, out)
    print(f"{out}: {keys} keys")
    if as_json:
        print(json.dumps({"file": str(out), "keys": keys}))


@app.command("onnx")
def onnx(
    artifact: ArtifactArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help=".onnx file to write, with a .json beside it.")],
    rho: Annotated[
        list[float] | None, typer.Option(help="Value at which the AP is checked; repeatable. Default: as trained.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the input in pixels. Default: that of the run.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", exists=True, file_okay=False, help="Data set of the check. Default: that of the run."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="With --data: split of the check.")] = "val",
    engine: Annotated[str, typer.Option(help="Engine of the check: onnxruntime or openvino.")] = "onnxruntime",
    as_json: AsJson = False,
) -> None:
    """Export a model to ONNX, and compare its AP with that of the model; ρ stays an input."""
    from rhobench.config import DataConfig
    from rhobench.inference.export_onnx import FLAGGED_AP_LOSS, export_onnx
    from rhobench.measure.model_cost import parse_size

    checked_on = None if data is None else DataConfig(dir=str(data.absolute()), val_split=split)
    input_size = None if size is None else parse_size(size)
    with progress() as show:
        done = export_onnx(
            artifact, out, rhos=tuple(rho or ()), size=input_size, data=checked_on, engine=engine, notify=show
        )
    print(f"{out}: input {done.height}x{done.width}, {'ρ is an input' if done.rho_is_input else 'dense encoder'}")
    for value, (own, exported) in done.ap.items():
        at = "" if value is None else f" at ρ {value:g}"
        print(f"  AP{at}: {100 * exported:.2f} in {engine}, {100 * own:.2f} in PyTorch ({100 * (exported - own):+.2f})")
    if done.largest_loss > FLAGGED_AP_LOSS:
        verdict = "its latency may be measured" if done.usable else "its latency must not be compared"
        print(f"  The APs differ by {100 * done.largest_loss:.2f}: {verdict}.")
    if as_json:
        rows = [{"rho": value, "ap": own, "ap_exported": exported} for value, (own, exported) in done.ap.items()]
        print(json.dumps({"file": str(out), "engine": engine, "rho_is_input": done.rho_is_input, "checked": rows}))
    raise typer.Exit(0 if done.usable else FAILED)

"""``rhobench weights``: convert checkpoints from and to other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import ArtifactArgument, AsJson, command_group, report_problems

app = command_group("Import checkpoints of other code, or export to the official format.")

MAX_LISTED = 5
"""Unused tensors that are listed without ``--verbose``."""


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Official or transformers checkpoint: .pth, .pt, .bin, .safetensors.")],
    model: Annotated[str, typer.Option(help="Model that the file holds: sparse_detr_r50.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help=".safetensors file to write.")],
    rho: Annotated[float | None, typer.Option(help="Share of updated tokens, if the file does not store it.")] = None,
    categories: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
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
    file: Annotated[Path, typer.Argument(help="File with a state_dict: .pth or .safetensors.")],
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

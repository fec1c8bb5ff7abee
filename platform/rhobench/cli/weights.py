"""``rhobench weights``: checkpoints of others as ours, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import AsJson, warn

app = typer.Typer(no_args_is_help=True, help="Read checkpoints of others, or write ours for the official code.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Official or transformers checkpoint: .pth, .pt, .bin, .safetensors.")],
    model: Annotated[str, typer.Option(help="The model that it holds, such as sparse_detr_r50.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    rho: Annotated[float | None, typer.Option(help="Share of updated tokens, where the file does not say it.")] = None,
    categories: Annotated[
        Path | None, typer.Option(help="COCO json that the weights were trained on; COCO's own for 91 classes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a model of rhobench from a checkpoint, without running any code in it."""
    from rhobench.inference.convert_weights import import_weights

    imported = import_weights(file, model, out, rho=rho, annotations=categories)
    config = imported.config
    size = f"{imported.tensors} tensors, {imported.params_m:.2f} M parameters"
    print(f"{out}: {model} from the {imported.layout} layout, {size}")
    print(f"  rho {config.rho}, encoder auxiliary heads {config.use_enc_aux_loss}, {config.num_classes} classes")
    if imported.ignored:
        print(f"  {len(imported.ignored)} keys are no weights and were left out, first {imported.ignored[0]}")
    warn(imported.notes)
    if as_json:
        print(json.dumps(imported.as_dict()))


@app.command("backbone")
def backbone(
    file: Annotated[Path, typer.Argument(help="A state_dict, or a checkpoint that holds one: .pth or .safetensors.")],
    name: Annotated[str, typer.Argument(help="The backbone: r50, swin_t, swin_b, or any model of timm.")],
    prefix: Annotated[
        str | None, typer.Option(help="What stands before its names in the file, where several networks fit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which tensors of a file a backbone takes: with model.backbone.weights=FILE a training starts from them."""
    from rhobench.inference.convert_weights import backbone_weights

    loaded = backbone_weights(file, name, prefix)
    print(f"{file}: all {len(loaded.used)} tensors of {name}, with {loaded.names} after {loaded.prefix!r}")
    for key in loaded.unused:
        print(f"  not used: {key}")
    if as_json:
        print(json.dumps(vars(loaded)))


@app.command("export")
def export(
    artifact: Annotated[Path, typer.Argument(help="A model.safetensors, of a run or of `rhobench weights import`.")],
    out: Annotated[Path, typer.Option(help="The .pth file to write.")],
    as_json: AsJson = False,
) -> None:
    """Write a model with the names of the official code."""
    from rhobench.inference.convert_weights import export_weights

    keys = export_weights(artifact, out)
    print(f"{out}: {keys} keys")
    if as_json:
        print(json.dumps({"file": str(out), "keys": keys}))

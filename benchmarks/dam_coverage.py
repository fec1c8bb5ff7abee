"""How much of the decoder's attention the kept tokens cover in trained models, against as many random tokens.

    python benchmarks/dam_coverage.py STORE [--rho 0.1] [--images 300] [--json]

For every run of the store that was trained at this rho with the attention map as criterion (DAM): the share of the
decoder's attention map that falls on the tokens its encoder updates, the mean over validation images (paper, figure 5,
"Corr"), and the share that falls on as many tokens drawn at random for each image, in the same forward pass.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from rhobench.data import prepare_data
from rhobench.data.coco import CocoDetection
from rhobench.measure.artifact import FILE_NAME, Artifact, load_artifact
from rhobench.model.sparsity import TokenSelection, dam_correlation, decoder_attention_map
from rhobench.results import Store
from rhobench.results.published_runs import CORR_ENTRY
from rhobench.training.loaders import image_loader


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Shares of the decoder's attention in one trained model."""

    run_id: str
    """The run."""
    kept: float
    """Share on the tokens that the encoder updates."""
    random: float
    """Share on as many random tokens."""

    @property
    def ratio(self) -> float:
        """How many times as much the kept tokens cover."""
        return self.kept / self.random


def coverage(artifact: Artifact, run_id: str, count: int) -> Coverage:
    """Measure a trained model on its first ``count`` validation images."""
    data, model = artifact.config.data, artifact.model
    images = CocoDetection(data, prepare_data(data), (data.val_split,), train=False)
    draw = torch.Generator().manual_seed(0)
    sums, done = torch.zeros(2), 0
    with torch.inference_mode():
        for batch in image_loader(images):
            output = model(batch.images, batch.mask, with_aux=True)
            assert output.selection is not None
            dam = decoder_attention_map(output.samplings, output.grid.shapes)
            chosen = (output.selection, random_selection(output.selection, output.grid.padding, draw))
            shares = [dam_correlation(dam, each, output.grid.level_sizes)[CORR_ENTRY] for each in chosen]
            sums, done = sums + torch.stack(shares) * len(batch.targets), done + len(batch.targets)
            if done >= count:
                break
    kept, random = (sums / done).tolist()
    return Coverage(run_id=run_id, kept=kept, random=random)


def random_selection(selection: TokenSelection, padding: torch.Tensor, draw: torch.Generator) -> TokenSelection:
    """As many tokens as were selected, drawn at random for each image without its padding."""
    order = torch.rand(padding.shape, generator=draw).masked_fill(padding, 2.0).argsort(dim=1)
    return replace(selection, index=order[:, : selection.index.shape[1]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the coverage of each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--rho", type=float, default=0.1)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    store = Store(options.store)
    frame = store.frame()
    runs = frame[(frame["rho"] == options.rho) & (frame["model.scoring"] == "dam")]
    runs = runs[runs["status"].isin(["trained", "completed"])].drop_duplicates("run_id")
    found = []
    for run_id in runs["run_id"]:
        found.append(coverage(load_artifact(store.run_dir(run_id) / FILE_NAME), run_id, options.images))
        if not options.json:
            one = found[-1]
            print(f"{run_id}: kept {one.kept:.3f}, random {one.random:.3f}, {one.ratio:.2f} times as much", flush=True)
    if options.json:
        print(json.dumps([asdict(one) | {"ratio": one.ratio} for one in found]))


if __name__ == "__main__":
    main()

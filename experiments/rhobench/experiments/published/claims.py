"""The claims of the paper's abstract and of a summary of it, each with the evidence for and against it."""

from __future__ import annotations

from rhobench.config.published import Contrast, Printed, PublishedTable, Saved, SpeedRatio, TableRow, TableSection
from rhobench.experiments.published.depth import aux_loss_row, depth_row
from rhobench.experiments.published.encoder_share import LITE_DETR, LITE_DETR_DENSE
from rhobench.experiments.published.rho_at_inference import RHOS, loss_row
from rhobench.experiments.published.scoring import DIRECTION
from rhobench.experiments.published.table1 import EXPERIMENTS

PRINTED, COUNTED, RUNS = "printed", "counted", "runs"
"""Kinds of evidence: arithmetic on published numbers, our counted cost, the runs of a store."""

NAMES = ("evidence", "of")

SPARSE = {
    "Swin-T": {"top-k & BBR": (113.4, 184.8, 21.2, 15.4), "plain": (113.4, 180.4, 21.2, 15.9)},
    "R50": {"top-k & BBR": (105.4, 177.3, 25.3, 18.2), "plain": (105.4, 172.9, 25.3, 19.1)},
}
"""GFLOPs and FPS of Sparse DETR at rho 0.1 and of a dense baseline, by backbone and baseline (Table 1)."""

README_FPS = 26.5
"""FPS of Sparse DETR at rho 0.1 on R50 in the official README; Table 1 of the paper has 25.3."""

ROUNDED = 0.006
"""Tolerance of a ratio that was printed in whole percent: 0.5 for its rounding and 0.1 for an earlier one."""

MARGIN = 0.5
"""AP points by which runs may be below the dense encoder and still count as equal."""


def claims() -> PublishedTable:
    """Six claims, with published arithmetic, counted cost and runs as evidence."""
    return PublishedTable(
        title="Claims of Sparse DETR",
        sections=(_flops(), _speed("1.42"), _speed("1.38"), _encoder(), _equal(), _rho_at_inference(), _depth()),
        notes=(
            "printed: arithmetic on published numbers. counted: our models, by the official rules, both at 800x1066. "
            "runs: the runs of STORE.",
            DIRECTION,
        ),
    )


def _flops() -> TableSection:
    printed = [
        _printed(f"{backbone}, against {name}", "38", 100 * (1 - own / dense), f"1 - {own} / {dense}", 1.0)
        for backbone, baselines in SPARSE.items()
        for name, (own, dense, _, _) in baselines.items()
    ]
    counted = [
        TableRow(
            names=(COUNTED, f"{backbone}, against {name}"),
            published="38",
            ours=Saved(model=f"sparse_detr_{model}", rho=0.1, dense=f"{family}_{model}"),
            tolerance=1.0,
        )
        for backbone, model in (("Swin-T", "swin_t"), ("R50", "r50"))
        for name, family in (("top-k & BBR", "efficient_detr"), ("plain", "deformable_detr"))
    ]
    return _claim(
        "ρ 0.1 saves 38 % of the FLOPs (abstract)",
        *printed,
        *counted,
        digits=2,
        notes=(
            "Table 1 counts its dense rows at 850x1040 and its sparse rows at 800x1066, which flatters the sparse ones "
            "by 2.2 to 2.5 points. “About 38” is taken as within 1.",
        ),
    )


def _speed(claimed: str) -> TableSection:
    printed = [
        _printed(f"{backbone}, against {name}", claimed, own / dense, f"{own} / {dense}", ROUNDED)
        for backbone, baselines in SPARSE.items()
        for name, (_, _, own, dense) in baselines.items()
    ]
    readme = [
        _printed(
            f"R50 in the README, against {name}", claimed, README_FPS / row[3], f"{README_FPS} / {row[3]}", ROUNDED
        )
        for name, row in SPARSE["R50"].items()
    ]
    runs = [
        TableRow(
            names=(RUNS, f"{backbone}, against {name}"),
            published=claimed,
            ours=SpeedRatio(model=f"sparse_detr_{model}", rho=0.1, baseline=f"{family}_{model}"),
            tolerance=0.1,
            experiment=EXPERIMENTS[backbone],
            device="NVIDIA V100",
        )
        for backbone, model in (("Swin-T", "swin_t"), ("R50", "r50"))
        for name, family in (("top-k & BBR", "efficient_detr"), ("plain", "deformable_detr"))
    ]
    percent, source = round(100 * (float(claimed) - 1)), "abstract" if claimed == "1.42" else "a summary, by Table 1"
    return _claim(
        f"ρ 0.1 is {percent} % faster ({source})",
        *printed,
        *readme,
        *runs,
        digits=3,
        notes=("42 % and 38 % are different claims on the same thing. No pair of rows in Table 1 gives 42 %.",),
    )


def _encoder() -> TableSection:
    lite = LITE_DETR[0.1]
    return _claim(
        "ρ 0.1 saves 82 % of the encoder",
        _printed("Lite DETR's count", "82", 100 * (1 - lite / LITE_DETR_DENSE), f"1 - {lite} / {LITE_DETR_DENSE}", 1.0),
        TableRow(
            names=(COUNTED, "linear layers only"),
            published="82",
            ours=Saved(model="sparse_detr_r50", rho=0.1, dense="efficient_detr_r50", scope="linear layers"),
            tolerance=1.0,
        ),
        TableRow(
            names=(COUNTED, "everything in the encoder"),
            published="82",
            ours=Saved(model="sparse_detr_r50", rho=0.1, dense="efficient_detr_r50", scope="encoder"),
            tolerance=1.0,
        ),
        notes=("The claim holds for the linear layers of the encoder; see `rhobench reproduce encoder-share`.",),
    )


def _equal() -> TableSection:
    values = {
        "R50 ρ 0.3, AP": (46.0, 46.0),
        "R50 ρ 0.3, AP75": (49.7, 49.8),
        "R50 ρ 0.3, AP large": (60.6, 61.0),
        "R50 ρ 0.5, AP": (46.3, 46.0),
        "R50 ρ 0.5, against two-stage": (46.3, 46.9),
        "Swin-T ρ 0.3, AP": (49.1, 48.0),
    }
    printed = [
        TableRow(names=(PRINTED, name), ours=Printed(value=own - dense, arithmetic=f"{own} - {dense}"), at_least=-1e-9)
        for name, (own, dense) in values.items()
    ]
    sparse = {"model": "sparse_detr", "rho": 0.3, "rho_infer": 0.3}
    runs = [
        _equal_row("ρ 0.3, against top-k & BBR", {"model": "efficient_detr", "rho": None, "rho_infer": None}, sparse),
        *(
            _equal_row(f"ρ {rho:g}, against ρ 1", {"rho": 1.0, "rho_infer": 1.0}, {"rho": rho, "rho_infer": rho})
            for rho in (0.3, 0.5)
        ),
    ]
    return _claim(
        "ρ of at least 0.3 equals the dense encoder: difference of AP",
        *printed,
        *runs,
        notes=(
            f"Runs count as equal if they are not below by more than {MARGIN:g} AP. “Two-stage” is the best Deformable "
            "DETR of its own README, 46.9 AP.",
        ),
    )


def _equal_row(name: str, first: dict[str, object], second: dict[str, object]) -> TableRow:
    return TableRow(
        names=(RUNS, name),
        ours=Contrast(first=first, second=second, free=("model.use_enc_aux_loss",)),
        at_least=-MARGIN,
        experiment="rho_at_inference" if "model" not in first else "table1_r50",
    )


def _rho_at_inference() -> TableSection:
    rows = [loss_row(rho, names=(RUNS, f"trained at 0.3, run at {rho:g}")) for rho in RHOS]
    return _claim(
        "another ρ at inference costs at most 0.5 AP: difference of AP",
        *rows,
        notes=("No published number supports or contradicts it: figure 7 was found as prose only.",),
    )


def _depth() -> TableSection:
    more = depth_row("12", 12, 6, aux=False)
    return _claim(
        "12 encoder layers train only with auxiliary loss: difference of AP",
        aux_loss_row(12, names=(RUNS, "12 layers, with minus without the loss")),
        TableRow(
            names=(RUNS, "without the loss, 6 minus 12 layers"),
            ours=more.ours,
            above=more.above,
            experiment=more.experiment,
        ),
        notes=("Two secondary sources say that training fails without the loss; they give no numbers.",),
    )


def _printed(of: str, claimed: str, value: float, arithmetic: str, tolerance: float) -> TableRow:
    return TableRow(
        names=(PRINTED, of),
        published=claimed,
        ours=Printed(value=value, arithmetic=arithmetic),
        tolerance=tolerance,
    )


def _claim(title: str, *rows: TableRow, notes: tuple[str, ...], digits: int = 1) -> TableSection:
    return TableSection(title=title, columns=NAMES, rows=rows, digits=digits, claim=True, notes=notes)

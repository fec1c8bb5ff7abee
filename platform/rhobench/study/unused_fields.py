"""Fields that another field makes unused, so that a sweep over them would train the same model again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import fields

from rhobench.config import ConfigError, RunConfig
from rhobench.config.data import ScenesConfig
from rhobench.config.paths import differences, value_at, with_values

UNUSED: tuple[tuple[Callable[[RunConfig], bool], tuple[str, ...], str], ...] = (
    (
        lambda run: bool(run.model.rho_choices),
        ("model.rho",),
        "model.rho_choices draws the rho of each step. To measure one training at several, set measure.rhos; to train "
        "one model for each, add --set model.rho_choices=()",
    ),
    (
        lambda run: run.model.rho is None or run.model.scoring != "dam",
        ("loss.mask_prediction_weight", "loss.mask_prediction_warmup_steps", "loss.dam_softness"),
        "only model.scoring=dam has a scoring network",
    ),
    (
        lambda run: not run.model.two_stage,
        ("model.eff_query_init", "model.eff_specific_head"),
        "model.two_stage=false has learned queries",
    ),
    (
        lambda run: run.model.name == "detr",
        ("model.num_points", "model.attention_backend", "loss.focal_alpha"),
        "detr has neither deformable attention nor a focal loss",
    ),
    (
        lambda run: run.model.name != "detr",
        ("loss.no_object_weight",),
        "only detr has a class for no object",
    ),
    (
        lambda run: not run.model.mask_head,
        ("loss.mask_focal_weight", "loss.mask_dice_weight"),
        "model.mask_head=false predicts no masks",
    ),
    (
        lambda run: run.train.schedule == "cosine",
        ("train.lr_drop_epoch",),
        "train.schedule=cosine lowers the learning rate in every step",
    ),
    (
        lambda run: run.train.lr_rule == "constant",
        ("train.lr_batch_size",),
        "train.lr_rule=constant does not scale the learning rate",
    ),
    (
        lambda run: run.model.backbone.frozen == "all",
        ("train.lr_backbone",),
        "model.backbone.frozen=all trains no part of the backbone",
    ),
    (
        lambda run: run.data.crop_prob == 0,
        ("data.crop_scales_px", "data.crop_px"),
        "data.crop_prob=0 crops no image",
    ),
    (
        lambda run: run.data.val_share == 0,
        ("data.val_seed",),
        "data.val_share=0 splits nothing off",
    ),
    (
        lambda run: run.data.resize_px is not None,
        ("data.short_side_px", "data.max_side_px"),
        "data.resize_px sets both side lengths",
    ),
    (
        lambda run: run.data.dir is not None,
        tuple(f"data.scenes.{each.name}" for each in fields(ScenesConfig)),
        "data.dir replaces the generated images",
    ),
)
"""Conditions on a run, the fields that are unused under it, and the reason with which an error ends."""


def require_effect(configs: Iterable[RunConfig], varied: Collection[str]) -> None:
    """Raise ConfigError if two configurations differ only in fields that neither of them uses.

    Args:
        configs: distinct configurations of an experiment, without their seeds.
        varied: paths in which they may differ.
    """
    rules = [(holds, [path for path in paths if path in varied], reason) for holds, paths, reason in UNUSED]
    rules = [rule for rule in rules if rule[1]]
    if not rules:
        return  # the usual case, and a sweep may have many thousands of runs
    defaults = RunConfig(experiment="")
    seen: dict[RunConfig, RunConfig] = {}
    for config in configs:
        reasons = {path: reason for holds, paths, reason in rules if holds(config) for path in paths}
        used = with_values(config, {path: value_at(defaults, path) for path in reasons})
        other = seen.setdefault(used, config)
        if other is not config:
            changed = differences(other, config)
            values = " and ".join(f"{each.path}={each.first} and {each.second}" for each in changed)
            raise ConfigError(
                f"Two runs would train the same model, with {values}: {reasons[changed[0].path]}. "
                "Or remove one of the two with --exclude."
            )

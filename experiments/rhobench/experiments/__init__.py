"""Every study, one module each: a function that returns an ``Experiment``, listed here by its name."""

from collections.abc import Callable

from rhobench.config.experiment import Experiment
from rhobench.experiments.bccd import bccd
from rhobench.experiments.bccd_finetuned import bccd_finetuned
from rhobench.experiments.dam_target import dam_target
from rhobench.experiments.demo import demo
from rhobench.experiments.encoder_depth import encoder_depth
from rhobench.experiments.masks import masks
from rhobench.experiments.modern_50ep import modern_50ep
from rhobench.experiments.official_50ep import official_50ep
from rhobench.experiments.pretraining import pretraining
from rhobench.experiments.rho_sampled import rho_sampled
from rhobench.experiments.scoring import scoring
from rhobench.experiments.search import search

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "demo": demo,
    "bccd": bccd,
    "bccd_finetuned": bccd_finetuned,
    "rho_sampled": rho_sampled,
    "encoder_depth": encoder_depth,
    "search": search,
    "scoring": scoring,
    "dam_target": dam_target,
    "pretraining": pretraining,
    "masks": masks,
    "official_50ep": official_50ep,
    "modern_50ep": modern_50ep,
}

__all__ = ["EXPERIMENTS"]

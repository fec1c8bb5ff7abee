"""What the numbers of a run rule out, by arithmetic alone: nothing is built and nothing is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from rhobench.config import ModelConfig, RunConfig
from rhobench.config.model import NORM_GROUPS
from rhobench.config.paths import leaves
from rhobench.preflight.images import SizeRange
from rhobench.preflight.problems import refusal
from rhobench.preflight.transformer_cost import TransformerCost, backbone_strides, level_shapes, token_count

MAX_LAYERS = 1000
"""Layers of an encoder or decoder. PyTorch needs tens of kilobytes for the objects of a layer, however narrow."""

MAX_RATE = 1.0
"""Learning rate above which nothing can be learned: a step of AdamW changes every weight by about its rate."""

MAX_MAGNITUDE = 1e30
"""Size of numbers from which products of two of them overflow the 32-bit arithmetic of the training."""

MAX_LOADERS = 256
"""DataLoader processes of a worker."""

MAX_CALLS = 10**6
"""Timed calls of an artifact, and calls before them; a million takes hours."""

ANY_MACHINE = 2**43
"""Bytes of memory that no machine has, 8 TiB, where the memory of the machine is unknown."""

TRAINED_BYTES = 16
"""Bytes of a parameter in a training: the value, its gradient and two moments of AdamW, in 32 bits each."""


def setting_problems(config: RunConfig, inputs: SizeRange, train_images: int, memory: int | None) -> Iterator[str]:
    """Yield a sentence on each setting with which a run cannot work.

    Args:
        config: configuration of the run, with the number of classes of the model.
        inputs: extreme sizes of its images.
        train_images: number of its training images.
        memory: bytes of memory of the device; None: unknown.
    """
    yield from _magnitude_problems(config)
    yield from _training_problems(config, train_images)
    yield from _token_problems(config, inputs)
    yield from _memory_problems(config, inputs, memory or ANY_MACHINE)


def _magnitude_problems(config: RunConfig) -> Iterator[str]:
    for path, value in leaves(config):
        numbers = value if isinstance(value, tuple) else (value,)
        if path in EXEMPT or not any(isinstance(n, float) and abs(n) > MAX_MAGNITUDE for n in numbers):
            continue
        yield refusal(path, value, f"numbers above {MAX_MAGNITUDE:g} overflow in the first step")
    if min(config.data.pixel_std) < 1 / MAX_MAGNITUDE:
        yield refusal("data.pixel_std", config.data.pixel_std, "pixels are divided by it, which overflows")


EXEMPT = frozenset({"train.checkpoint_every_seconds", "train.gpus_per_worker", "train.lr", "train.lr_backbone"})
"""Fields that do not enter the arithmetic of a step, or that have a stricter rule."""


def _training_problems(config: RunConfig, train_images: int) -> Iterator[str]:
    train, data, measure = config.train, config.data, config.measure
    for name, group in (("lr", "base"), ("lr_backbone", "backbone"), ("lr_linear_proj_mult", "linear_proj")):
        rate = train.rates[group]
        if rate > MAX_RATE and not (group == "linear_proj" and train.rates["base"] > MAX_RATE):
            rule = f"the rate of {group!r} would be {rate:g}, and a step changes every weight by about its rate"
            yield refusal(f"train.{name}", getattr(train, name), f"{rule}; the rate must be at most {MAX_RATE:g}")
    if train.rates["base"] <= MAX_RATE and train.rates["base"] * train.weight_decay >= 1:
        most = f"it must be below {1 / train.rates['base']:g}"
        rule = f"with train.lr={train.lr:g} the first step removes all weights; {most}"
        yield refusal("train.weight_decay", train.weight_decay, rule)
    if train.batch_size > train_images:
        rule = f"there are {train_images} training images, and every step needs that many; lower it or add images"
        yield refusal("train.batch_size", train.batch_size, rule)
    if data.loader_workers > MAX_LOADERS:
        yield refusal("data.loader_workers", data.loader_workers, f"it must be at most {MAX_LOADERS} processes")
    for name in ("iterations", "warmup_iterations"):
        calls = getattr(measure, name)
        if calls is not None and calls > MAX_CALLS:
            yield refusal(f"measure.{name}", calls, f"it must be at most {MAX_CALLS:,} calls")


def _token_problems(config: RunConfig, inputs: SizeRange) -> Iterator[str]:
    model, (height, width) = config.model, inputs.smallest
    for name in ("enc_layers", "dec_layers"):
        if getattr(model, name) > MAX_LAYERS:
            yield refusal(f"model.{name}", getattr(model, name), f"it must be at most {MAX_LAYERS:,} layers")
    shapes, image = level_shapes(model, height, width), f"the smallest input has {height}x{width} pixels"
    if model.name != "detr" and model.num_feature_levels > len(shapes):
        rule = f"{image}, where level {len(shapes)} is a single cell already; it must be at most {len(shapes)}"
        yield refusal("model.num_feature_levels", model.num_feature_levels, rule)
    elif model.name != "detr" and model.hidden_dim == NORM_GROUPS and shapes[-1] == (1, 1):
        rule = f"{image}, where level {len(shapes)} is a single cell, and a group of the group norm a single channel"
        way_out = f"it must be at least {2 * NORM_GROUPS}, or model.num_feature_levels at most {len(shapes) - 1}"
        yield refusal("model.hidden_dim", model.hidden_dim, f"{rule}; {way_out}")
    tokens = token_count(shapes)
    if model.two_stage and model.num_queries > tokens:
        rule = f"{image}, whose {tokens:,} tokens the queries are selected from; lower it or use larger images"
        yield refusal("model.num_queries", model.num_queries, rule)
    shares = {"model.rho": (model.rho,), "model.rho_choices": model.rho_choices, "measure.rhos": config.measure.rhos}
    for path, values in shares.items():
        if any(value is not None and value * tokens < 1 for value in values):
            shown = values[0] if path == "model.rho" else values
            rule = (
                f"{image} and {tokens:,} tokens, of which this share keeps none; it must be at least {1 / tokens:.2g}"
            )
            yield refusal(path, shown, rule)


def _memory_problems(config: RunConfig, inputs: SizeRange, memory: int) -> Iterator[str]:
    model, data, train, (height, width) = config.model, config.data, config.train, inputs.largest
    own = TransformerCost(model=model, channels=[1] * len(backbone_strides(model)))
    parameters = own.parameters
    # Too many layers are reported as such.
    if parameters * TRAINED_BYTES > memory and max(model.enc_layers, model.dec_layers) <= MAX_LAYERS:
        path = _largest_dimension(model)
        rule = (
            f"the model would have {parameters:.3g} parameters, whose training takes {_gib(parameters * TRAINED_BYTES)}"
        )
        yield refusal(f"model.{path}", getattr(model, path), f"{rule}, more than the {_gib(memory)} of the device")
    image = 12 * height * width  # bytes: three colours in 32 bits
    if image > memory:
        path = "resize_px" if data.resize_px else "scales_px" if data.scales_px else "short_side_px"
        yield refusal(
            f"data.{path}", getattr(data, path), f"an image of {height}x{width} pixels takes {_gib(image)}; lower it"
        )
        return
    images = train.micro_batch_size or train.batch_size // train.num_workers
    for name, value in (("train.batch_size", train.batch_size), ("measure.batch_size", config.measure.batch_size or 1)):
        count = images if name.startswith("train") else value
        if count * image > memory:
            rule = f"{count:,} images of {height}x{width} pixels at once take {_gib(count * image)}"
            way_out = "set train.micro_batch_size" if name.startswith("train") else "lower it"
            yield refusal(name, value, f"{rule}, more than the {_gib(memory)} of the device; {way_out}")
    longest = max(data.crop_scales_px) if data.crop_prob else 0
    if 12 * longest**2 > memory:
        yield refusal(
            "data.crop_scales_px", data.crop_scales_px, f"an image of that size takes {_gib(12 * longest**2)}"
        )


def _largest_dimension(model: ModelConfig) -> str:
    """Field of the model that is largest in comparison with its default."""
    defaults = ModelConfig()
    numbers = [f.name for f in fields(model) if type(getattr(model, f.name)) is int and f.name != "num_classes"]
    ratios = {name: getattr(model, name) / getattr(defaults, name) for name in numbers}
    ratios["num_classes"] = (model.num_classes or 0) / 91
    return max(ratios, key=lambda name: ratios[name])


def _gib(size: float) -> str:
    return f"{size / 2**30:,.3g} GiB" if size < 2**60 else f"{size / 2**30:.2g} GiB"

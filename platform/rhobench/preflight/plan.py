"""The check of a plan: every problem of its runs at once, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rhobench.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rhobench.config.phrases import counted
from rhobench.preflight.data import class_problem, folder_problems, split_problems
from rhobench.preflight.images import input_sizes, training_images
from rhobench.preflight.problems import PreflightError
from rhobench.preflight.questions import Answer, ModelQuestion, ask, cost_question
from rhobench.preflight.settings import setting_problems
from rhobench.preflight.transformer_cost import TransformerCost, backbone_strides


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the runs of a plan are executed."""

    here: bool
    """Whether that is this machine."""
    memory: int | None
    """Bytes of memory of the device of a worker; None: unknown."""


@dataclass(kw_only=True)
class Findings:
    """Result of a check: sentences, each once."""

    problems: list[str] = field(default_factory=list)
    """What keeps runs from working."""
    warnings: list[str] = field(default_factory=list)
    """What may keep runs from working, by an estimate."""


def require_workable(
    configs: Sequence[RunConfig], machine: Machine, on_progress: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Check all runs of a plan, and return warnings.

    Raises:
        PreflightError: some runs cannot work; it lists all problems.
    """
    findings = check_plan(configs, machine, on_progress)
    if findings.problems:
        raise PreflightError(findings.problems)
    return findings.warnings


def check_plan(
    configs: Sequence[RunConfig], machine: Machine, on_progress: Callable[[str], None] = lambda text: None
) -> Findings:
    """Find what keeps the runs of a plan from working.

    Args:
        configs: configurations of the runs.
        machine: where they are executed.
        on_progress: called with a description of the current step.
    """
    distinct = list(dict.fromkeys(replace(config, seed=0, experiment="") for config in configs))
    problems: list[str] = []
    readable = {}
    for data in dict.fromkeys(config.data for config in distinct):
        on_progress("reading annotations")
        problems += [*split_problems(data), *folder_problems(data)]
        readable[data] = _is_readable(data)
    largest: dict[RunConfig, RunConfig] = {}
    for config in distinct:
        if not readable[config.data]:  # the sizes of the images and the classes of the model are unknown
            continue
        own = list(_setting_problems(config, machine))
        problems += own
        if not own:  # only what fits into memory is built
            config = _with_classes(config)
            kind = _kind(config)
            if kind not in largest or _parameters(config) > _parameters(largest[kind]):
                largest[kind] = config
    questions = [_question(config, machine) for config in largest.values()]
    # The estimate of the hours asks for the costs of the backbones next; one process answers both.
    costs = [cost_question(config.model, training_images(config.data)) for config in largest.values()]
    answers = ask([*questions, *costs], on_progress)
    warnings: list[str] = []
    for config, answer in zip(largest.values(), answers, strict=False):  # those to ``costs`` are not needed here
        problems += answer["problems"]
        if not answer["problems"] and machine.memory is not None:
            warnings += _memory_warning(config, answer, machine.memory)
    return Findings(problems=list(dict.fromkeys(problems)), warnings=list(dict.fromkeys(warnings)))


def _is_readable(data: DataConfig) -> bool:
    try:
        return input_sizes(data) is not None
    except (OSError, ValueError, KeyError, IndexError):  # reported as a problem of the data set
        return False


def _setting_problems(config: RunConfig, machine: Machine) -> Iterator[str]:
    yield from class_problem(config.data, config.model.num_classes)
    images = training_images(config.data)
    yield from setting_problems(_with_classes(config), input_sizes(config.data), images.count, machine.memory)


def _question(config: RunConfig, machine: Machine) -> ModelQuestion:
    inputs = input_sizes(config.data)
    return ModelQuestion(
        model=_plain(config.model),
        on_gpu=config.train.gpus_per_worker > 0,
        fork_from=config.train.fork_from,
        smallest=inputs.smallest,
        largest=inputs.largest,
        here=machine.here,
    )


def _with_classes(config: RunConfig) -> RunConfig:
    """The configuration with the number of classes that its model will have."""
    classes = config.model.num_classes or training_images(config.data).num_classes
    return replace(config, model=replace(config.model, num_classes=classes))


DIMENSIONS = ("num_queries", "num_points", "enc_layers", "dec_layers", "ffn_dim")
"""Fields of a model that only scale it. They are checked by arithmetic, and of models that differ in nothing else the
largest is built."""


def _kind(config: RunConfig) -> RunConfig:
    """The configuration without what makes no difference to whether its model can be built and run."""
    model, train = _plain(config.model), config.train
    if train.fork_from is None:  # otherwise every tensor must have the shape that it has in the file
        defaults = ModelConfig()
        model = replace(model, **{name: getattr(defaults, name) for name in DIMENSIONS})
    own = TrainConfig(gpus_per_worker=train.gpus_per_worker, fork_from=train.fork_from)
    return RunConfig(experiment="", model=model, data=config.data, train=own)


def _plain(model: ModelConfig) -> ModelConfig:
    """The model without what changes neither its tensors nor, beyond rounding, the memory of a step."""
    rho = None if model.rho is None else 1.0
    return replace(model, dropout=ModelConfig().dropout, rho=rho, rho_choices=())


def _parameters(config: RunConfig) -> int:
    """Parameters of the transformer of a model."""
    return TransformerCost(model=config.model, channels=[1] * len(backbone_strides(config.model))).parameters


def _memory_warning(config: RunConfig, answer: Answer, memory: int) -> Iterator[str]:
    """Yield a sentence if the parameters and activations of a step do not fit into the memory of the device."""
    train = config.train
    images = train.micro_batch_size or train.batch_size // train.num_workers
    weights = 4 * answer["parameters"] + 12 * answer["trainable"]  # with gradients and two moments
    needed = weights + images * answer["saved_bytes_per_image"]
    if needed > memory:
        yield (
            f"A step of {counted(images, 'image')} with activations takes up to {needed / 2**30:.3g} GiB, more than "
            f"the {memory / 2**30:.3g} GiB of the device: set train.micro_batch_size, or find one with --fit."
        )

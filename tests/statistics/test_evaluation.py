from __future__ import annotations

import io
from types import ModuleType

import numpy as np
import pytest

from rhobench.config.metrics import accuracy_bounds
from rhobench.statistics import evaluation as statistics_evaluation
from rhobench.statistics.difference import difference
from rhobench.statistics.evaluation import Evaluation, class_replicates
from rhobench.statistics.interval import image_interval, seed_interval
from rhobench.statistics.matches import MatchesError, pack


@pytest.fixture(scope="session")
def evaluation(simulation: ModuleType) -> Evaluation:
    rng = np.random.default_rng(0)
    return Evaluation.of({"bbox": simulation.detect(simulation.Detector(), simulation.draw_images(40, rng), rng)})


def test_a_file_holds_the_replicates_and_the_matches(evaluation: Evaluation) -> None:
    content = evaluation.to_bytes()
    quick, full = Evaluation.from_bytes(content), Evaluation.from_bytes(content, with_matches=True)
    assert not quick.matches
    assert quick.dataset == full.dataset == evaluation.dataset
    for name, values in evaluation.replicates.items():
        assert quick.replicates[name] == pytest.approx(values, abs=1e-6, nan_ok=True)
    again = Evaluation.of(full.matches)
    assert np.array_equal(again.replicates["ap"], evaluation.replicates["ap"])


def test_bounds_have_the_columns_of_the_metrics(evaluation: Evaluation) -> None:
    bounds = evaluation.bounds({"ap": 0.4, "ap50": None})
    assert set(bounds) <= set(accuracy_bounds())
    expected = image_interval(0.4, evaluation.replicates["ap"])
    assert (bounds["ap_low"], bounds["ap_high"]) == (expected.low, expected.high)
    assert bounds["ap50_low"] is None


def test_classes_average_to_the_replicates(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each is widened for the images that have its objects."""
    monkeypatch.setattr(statistics_evaluation, "widened", lambda replicates, images: replicates)
    values, replicates = class_replicates(evaluation.matches["bbox"])
    overall = Evaluation.of(evaluation.matches).replicates["ap"]
    assert replicates.shape == (len(overall), len(values))
    assert np.nanmean(replicates, axis=1) == pytest.approx(overall)


def test_a_rare_class_is_less_certain_than_its_replicates_say(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = evaluation.matches["bbox"]
    images, of_each = matches.images_with_objects()
    assert 20 < images <= 40
    assert of_each.min() < images / 2
    wide = np.nanstd(class_replicates(matches)[1], axis=0)
    monkeypatch.setattr(statistics_evaluation, "widened", lambda replicates, images: replicates)
    factors = wide / np.nanstd(class_replicates(matches)[1], axis=0)
    assert np.all(factors > 1)
    assert factors.argmax() == of_each.argmin()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_two_models_on_few_images(simulation: ModuleType, count: int) -> None:
    """One image says nothing about others, and of equal models on few, few are called different."""
    rng = np.random.default_rng(count)
    different, known, draws = 0, 0, 100
    for _ in range(draws):
        images = simulation.draw_images(count, rng, objects=8.0)
        pair = [Evaluation.of({"bbox": simulation.detect(simulation.Detector(), images, rng)}) for _ in range(2)]
        values = [np.array([float(simulation.ap(e.matches["bbox"])[0])]) for e in pair]
        replicates = [e.replicates["ap"][None] for e in pair]
        different += difference(values, replicates).differs()
        known += not np.isnan(seed_interval(values[0], replicates[0]).low)
    assert different <= (0 if count == 1 else 0.15 * draws)
    assert known == (0 if count == 1 else draws)


def arrays(evaluation: Evaluation) -> dict[str, dict[str, np.ndarray]]:
    data = {"dataset": np.array("x")}
    return {"bbox": dict(evaluation.matches["bbox"].arrays()), "data": data, "replicates": {"ap": np.zeros(1000)}}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image", lambda a: a + 1000),
        ("image", lambda a: a - 1),
        ("image", lambda a: a[:-1]),
        ("image", lambda a: a.astype(np.int64)),
        ("first", lambda a: a[::-1].copy()),
        ("first", lambda a: a + 1),
        ("hits", lambda a: a[:3]),
        ("hits", lambda a: a.astype(np.uint8)),
        ("ignored", lambda a: a[:, :-1]),
        ("object_category", lambda a: a + 50),
        ("object_image", lambda a: a[:-1]),
        ("objects", lambda a: a - 100),
        ("categories", lambda a: a[:-1]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(evaluation: Evaluation, name: str, change: object) -> None:
    """Compiled code uses them as indices."""
    groups = arrays(evaluation)
    assert Evaluation.from_bytes(pack(groups), with_matches=True).matches
    groups["bbox"][name] = change(groups["bbox"][name])  # type: ignore[operator]
    with pytest.raises(MatchesError):
        Evaluation.from_bytes(pack(groups), with_matches=True)


def test_other_files_are_refused(evaluation: Evaluation) -> None:
    content = evaluation.to_bytes()
    stream = io.BytesIO()
    np.savez(stream, **{"replicates/ap": np.array([{"a": 1}], dtype=object)})
    for broken in (b"", b"text", content[: len(content) // 2], stream.getvalue(), pack({"data": {}})):
        with pytest.raises(MatchesError):
            Evaluation.from_bytes(broken, with_matches=True)
    missing = arrays(evaluation)
    del missing["bbox"]["hits"]
    with pytest.raises(MatchesError, match="no 'hits'"):
        Evaluation.from_bytes(pack(missing), with_matches=True)

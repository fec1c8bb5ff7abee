"""Numerical parity with the official model for the same synthetic weights and images.

The order of nearly tied tokens is not reproducible even by the official model itself, so both sides are first sorted
by token index; matches are compared as pairs of token and object.
"""

from __future__ import annotations

from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from cases import Case, Result

from rhobench.config import ModelConfig

Arrays = dict[str, np.ndarray]

TOLERANCE = {"dam": 1e-3, "post_boxes_img0": 5e-3, "post_boxes_img1": 5e-3}
"""Absolute tolerance of arrays with large values."""
ARRAY_TOLERANCE, LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-4, 1e-4, 2e-3

QUERY_AXIS = {"hs_ch8": 2, "inter_references": 2}
"""Axis of the queries, for arrays in which it is not 1."""
PER_QUERY = ("pred_", "aux", "hs_", "inter_references", "dec_init_", "dec_query_")
PER_UPDATED_TOKEN = ("encaux",)
COMPARED_ELSEWHERE = ("match_", "query_token_index", "topk_tokens_by_score", "updated_tokens", "sparse_token_nums")
NOT_COMPARED = (
    "level_start_index",  # follows from spatial_shapes
    "sampling_locations_",  # of query 0, which depends on ties; the DAM sums over all queries
    "attn_weights_",
)


@pytest.fixture(scope="session")
def result(case: Case) -> Result:
    return cases.run(case)


def in_token_order(arrays: Arrays) -> Arrays:
    """Sort arrays of queries and of updated tokens by token index, and detections by label and position."""
    ordered = dict(arrays)
    orders: dict[tuple[str, ...], np.ndarray] = {}
    if "query_token_index" in arrays:  # learned queries keep their order
        orders[PER_QUERY] = arrays["query_token_index"].argsort(axis=1)
    if "topk_tokens_by_score" in arrays:
        orders[PER_UPDATED_TOKEN] = arrays["topk_tokens_by_score"].argsort(axis=1)
    for prefixes, order in orders.items():
        for name in (n for n in arrays if n.startswith(prefixes)):
            axis = QUERY_AXIS.get(name, 1)
            rows = zip(np.moveaxis(arrays[name], axis - 1, 0), order, strict=True)
            ordered[name] = np.stack([image.take(o, axis - 1) for image, o in rows], axis - 1)
    for image in range(len(arrays["pred_logits"])):
        names = [f"post_{kind}_img{image}" for kind in ("scores", "labels", "boxes")]
        order = np.lexsort((arrays[names[2]][:, 0], arrays[names[1]]))
        ordered |= {name: arrays[name][order] for name in names}
    return ordered


def assert_arrays_agree(case: Case, result: Result) -> None:
    golden, ours = in_token_order(case.arrays), in_token_order(result.arrays)
    names = [name for name in golden if not name.startswith(NOT_COMPARED + COMPARED_ELSEWHERE)]
    assert set(names) <= set(ours)
    for name in names:
        tolerance = TOLERANCE.get(name, ARRAY_TOLERANCE)
        np.testing.assert_allclose(ours[name], golden[name], rtol=0, atol=tolerance, err_msg=name)


def matched_tokens(arrays: Arrays) -> dict[str, set[tuple[int, int]]]:
    """Matched pairs (token or learned query, object) for each set of predictions and each image."""
    found = {}
    for name in (n for n in arrays if n.startswith("match_")):
        _, kind, image = name.split("_")
        predictions, objects = arrays[name]  # (2, n)
        tokens = np.arange(arrays["mask_flatten"].shape[1])
        if kind.startswith("encaux"):
            if "topk_tokens_by_score" in arrays:
                tokens = arrays["topk_tokens_by_score"][int(image[3:])]
        elif kind != "enc" and "query_token_index" in arrays:
            tokens = arrays["query_token_index"][int(image[3:])]
        found[name] = set(zip(tokens[predictions].tolist(), objects.tolist(), strict=True))
    return found


def test_arrays(case: Case, result: Result) -> None:
    assert_arrays_agree(case, result)


def test_losses(case: Case, result: Result) -> None:
    golden = case.meta["losses"]
    assert result.losses == pytest.approx(golden, rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE)
    assert result.total_loss == pytest.approx(case.meta["total_loss"], rel=LOSS_TOLERANCE)


def test_gradient_norms(case: Case, result: Result) -> None:
    """The same parameters, by official name, are trained with the same gradient norms."""
    golden = {name: norm for name, norm in case.meta["grad_norms"].items() if norm is not None}
    absolute = GRADIENT_TOLERANCE * 1e-3  # rounding dominates norms below 1e-3
    assert result.grad_norms == pytest.approx(golden, rel=GRADIENT_TOLERANCE, abs=absolute)
    assert result.total_grad_norm == pytest.approx(case.meta["grad_total_norm"], rel=GRADIENT_TOLERANCE)


def test_selection(case: Case, result: Result) -> None:
    golden, ours = case.arrays, result.arrays
    for image in range(len(golden["pred_logits"])):
        for name in ("query_token_index", "topk_tokens_by_score"):
            if name in golden:
                assert set(ours[name][image].tolist()) == set(golden[name][image].tolist()), (name, image)
    written = [name for name in golden if name.startswith(("updated_tokens", "sparse_token_nums"))]
    assert bool(written) == bool(case.model_config.rho)
    for name in written:
        assert ours[name].tolist() == golden[name].tolist(), name


def test_matches(case: Case, result: Result) -> None:
    # Matches are (2, n) in the golden files and (n, 2) in cases.py.
    ours = result.arrays | {name: a.T for name, a in result.arrays.items() if name.startswith("match_")}
    found = matched_tokens(ours)
    assert found == matched_tokens(case.arrays)
    assert sum(map(len, found.values())) == sum(case.meta["target_counts"]) * len(found) / len(case.meta["image_sizes"])


def test_a_sampling_point_moved_by_half_a_cell_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    committed, fill = Case(Path(__file__).parent / "golden" / "small64_rho0.2_aux.npz"), cases.fill

    def fill_and_move(model: torch.nn.Module, config: ModelConfig, salt: str) -> None:
        fill(model, config, salt)
        model.get_parameter("decoder.layers.1.cross_attn.sampling_offsets.bias").data[0] += 0.5

    monkeypatch.setattr(cases, "fill", fill_and_move)
    with pytest.raises(AssertionError, match="pred_logits"):
        assert_arrays_agree(committed, cases.run(committed))

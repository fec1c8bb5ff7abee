"""Files of samples: every timed call of a measurement, of which a table or figure reads those of one point."""

from __future__ import annotations

from io import BytesIO

import pandas as pd


def calls_by_point(content: bytes, points: pd.DataFrame) -> list[pd.DataFrame]:
    """The timed calls in a file of samples, without those of the warm-up.

    Args:
        content: the Parquet file.
        points: rows of ``Store.frame()`` that name the file.

    Returns:
        A table for each point, with the columns point (its index), run_id, rho_infer and latency_ms, and round where
        the file has it.

    Raises:
        ValueError, KeyError, TypeError, pyarrow.ArrowException: it is no such file.
    """
    samples = pd.read_parquet(BytesIO(content))
    if "phase" in samples:  # files of protocol version 1 have only timed calls
        samples = samples[samples["phase"] == "timed"]
    tables = []
    for index, point in points.iterrows():
        calls = samples.loc[_is_of(samples, point), samples.columns.intersection(["latency_ms", "round"])]
        own = {"point": index, "run_id": point["run_id"], "rho_infer": point["rho_infer"]}
        tables.append(calls.astype({"latency_ms": float}).assign(**own))
    return tables


def _is_of(samples: pd.DataFrame, point: pd.Series) -> pd.Series:
    """Whether each call is of a point; columns that older files or records lack do not count."""
    rho = samples["rho"].astype(float)
    own = rho.isna() if pd.isna(point["rho_infer"]) else rho == point["rho_infer"]
    for name in ("precision", "batch_size", "compiled"):
        if name in samples and name in point and pd.notna(point[name]):
            own &= samples[name] == point[name]
    if "height" in samples and "height" in point:
        # Only calls at another size than that of the training say which; a record always does.
        sized = samples["height"].notna()
        own &= (sized & (samples["height"] == point["height"]) & (samples["width"] == point["width"])) | ~sized
        if (own & sized).any():
            own &= sized
    return own

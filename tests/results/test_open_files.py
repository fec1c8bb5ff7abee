"""Places of stores: folders, URLs, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhobench.results import Store, StoreAccessError
from rhobench.results.open_files import SCHEMES, parse_place

BUCKETS = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}(/[a-z0-9]{1,9}){0,3}", fullmatch=True)


@given(scheme=st.sampled_from(SCHEMES), bucket=BUCKETS, as_path=st.booleans(), slashes=st.sampled_from(["", "/"]))
def test_a_url_that_lost_a_slash_is_told_as_such(scheme: str, bucket: str, as_path: bool, slashes: str) -> None:
    url = f"{scheme}://{bucket}"
    torn = Path(url) if as_path else f"{scheme}:{slashes}{bucket}"
    with pytest.raises(StoreAccessError, match="did you mean") as error:
        Store(torn)
    assert url in str(error.value)


@given(scheme=st.sampled_from(SCHEMES), bucket=BUCKETS)
def test_a_whole_url_stays_as_it_is(scheme: str, bucket: str) -> None:
    assert parse_place(f"{scheme}://{bucket}") == f"{scheme}://{bucket}"


@pytest.mark.parametrize("place", ["", " ", "\n"])
def test_an_empty_place_is_refused(place: str) -> None:
    with pytest.raises(StoreAccessError, match="empty"):
        Store(place)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (
        "~/a b",
        Path("~/a b"),
        f"file://{tmp_path}/a%20b",
        f"file://localhost{tmp_path}/a b",
        f"file:{tmp_path}/a b",
    ):
        assert Store(place).path == tmp_path / "a b"
    assert Store("~").path == tmp_path
    for place in (".", "a:b", "runs/s3:/x", "./s3:/x", "C:/x", "10:30", "12:/x", "a~b"):
        assert Store(place).path == Path(place)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file://host/x", "file:///FOLDER"),
        ("file:x", "file:///FOLDER"),
        ("~nobody-here/x", "no home folder"),
        ("a\0b", "allows"),
    ],
)
def test_places_that_are_no_folder(place: str, says: str) -> None:
    with pytest.raises(StoreAccessError, match=says):
        Store(place)

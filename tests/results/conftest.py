from __future__ import annotations

import pytest


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path) -> str:
    """A place for a store: a folder, or a prefix on an S3 server."""
    if request.param == "folder":
        return str(tmp_path / "a store")
    return request.getfixturevalue("s3_url")("a/store")

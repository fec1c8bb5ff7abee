"""Types of the numbers in a record, whose ranges are checked when a file is read."""

from __future__ import annotations

from typing import Annotated

import msgspec

LARGEST = 2**53
"""Whole numbers up to this one are exact in JSON, in data frames and in a browser."""

Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
"""A whole number from 0."""

Number = Annotated[float, msgspec.Meta(ge=0, le=LARGEST)]
"""An amount from 0."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""A number in [0, 1]."""

SignedShare = Annotated[float, msgspec.Meta(ge=-1, le=1)]
"""A difference of two shares."""

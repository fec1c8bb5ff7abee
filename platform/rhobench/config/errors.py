"""What a configuration that is not allowed raises."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration path or value that does not exist or is not allowed."""


def require(allowed: bool, name: str, value: object, rule: str) -> None:
    """Raise ConfigError, with the field's name, its value and the rule that it breaks, unless it is allowed."""
    if not allowed:
        raise ConfigError(f"{name}={value!r} is not allowed: {rule}.")


def require_shares(name: str, values: tuple[float, ...]) -> None:
    """Raise ConfigError unless every value is a share in (0, 1]."""
    require(all(0 < value <= 1 for value in values), name, values, "it lists shares in (0, 1]")

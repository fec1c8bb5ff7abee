"""ConfigError, and the checks that raise it."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration has a path that does not exist or a value that is not allowed."""


def require(allowed: bool, name: str, value: object, rule: str) -> None:
    """Raise ConfigError with the name of the field, its value and the violated rule, unless ``allowed``."""
    if not allowed:
        raise _not_allowed(name, value, rule)


def require_at_least(minimum: float, section: str, config: object, *names: str) -> None:
    """Raise ConfigError unless each of the named fields of ``config`` is None or at least ``minimum``."""
    for name in names:
        value = getattr(config, name)
        if not (value is None or value >= minimum):
            raise _not_allowed(f"{section}.{name}", value, f"it must be at least {minimum}")


def require_shares(name: str, values: tuple[float, ...]) -> None:
    """Raise ConfigError unless every value is in (0, 1]."""
    require(all(0 < value <= 1 for value in values), name, values, "every value must be in (0, 1]")


def _not_allowed(name: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"{name}={value!r} is not allowed: {rule}.")

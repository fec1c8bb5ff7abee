"""Quantiles and tails of the normal distribution and of Student's t.

Those of ``scipy.stats`` are the same functions behind a module that takes half a second to import, and behind a call
that takes thirty times as long.
"""

from __future__ import annotations

from scipy import special


def normal_quantile(p: float) -> float:
    """Value that a standard normal variable does not exceed with probability ``p``."""
    return float(special.ndtri(p))


def normal_tail(x: float) -> float:
    """Probability that a standard normal variable exceeds ``x``."""
    return float(special.ndtr(-x))


def t_quantile(p: float, freedom: float) -> float:
    """Value that Student's t with so many degrees of freedom does not exceed with probability ``p``."""
    return float(special.stdtrit(freedom, p))


def t_tail(x: float, freedom: float) -> float:
    """Probability that Student's t with so many degrees of freedom exceeds ``x``."""
    return float(special.stdtr(freedom, -x))


def noncentral_t_tail(x: float, freedom: float, shift: float) -> float:
    """Probability that the noncentral t, of a normal variable with mean ``shift``, exceeds ``x``."""
    return float(1 - special.nctdtr(freedom, shift, x))


def shift_of_noncentral_t(tail: float, freedom: float, x: float) -> float:
    """The shift at which the noncentral t exceeds ``x`` with probability ``tail``."""
    return float(special.nctdtrinc(freedom, 1 - tail, x))

"""Figures of the report: one module each, found by its ``CARDS``."""

from __future__ import annotations

import importlib
import pkgutil

from rhobench.dashboards.figures.card import FigureCard


def figure_cards() -> list[FigureCard]:
    """The cards of every module in this package, in the order of their places on the page."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    cards = [card for module in modules for card in getattr(module, "CARDS", ())]
    return sorted(cards, key=lambda card: card.place)

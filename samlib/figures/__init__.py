"""One function per figure of the book: arrays or runs in, a matplotlib figure out."""

from samlib.figures.membership import attack_differences, confidence_distributions, roc_curves, table
from samlib.figures.memorization import (
    Agreement, agreement, atypicality, differ_most, example_images, memorization_density, memorization_scatter,
)  # fmt: skip
from samlib.figures.style import style

__all__ = [
    "Agreement",
    "agreement",
    "attack_differences",
    "atypicality",
    "confidence_distributions",
    "differ_most",
    "example_images",
    "memorization_density",
    "memorization_scatter",
    "roc_curves",
    "style",
    "table",
]

"""One function per figure or table of the book: runs or arrays in, a matplotlib figure or a pandas Styler out."""

from samlib.figures.membership import attack_differences, confidence_distributions, own_rates, roc_curves
from samlib.figures.memorization import (
    Agreement,
    agreement,
    atypicality,
    differ_most,
    examples,
    link_curve,
    link_sentence,
    memorization_density,
    memorization_scatter,
)
from samlib.figures.tables import (
    agreement_table,
    differ_most_table,
    ledger_table,
    overview,
    provenance,
    table,
    training_cost,
)

__all__ = [
    "Agreement",
    "agreement",
    "agreement_table",
    "attack_differences",
    "atypicality",
    "confidence_distributions",
    "differ_most",
    "differ_most_table",
    "examples",
    "ledger_table",
    "link_curve",
    "link_sentence",
    "memorization_density",
    "memorization_scatter",
    "overview",
    "own_rates",
    "provenance",
    "roc_curves",
    "table",
    "training_cost",
]

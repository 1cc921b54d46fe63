"""Every statement of the theory checked on random parameters, each by a function that returns a list of `Check`."""

from samlib.paper.theory.verify.alignment import (
    corollary1,
    counterexamples,
    definition1,
    definition2,
    definition3,
    definition4,
    lemma1,
    lemma2,
    lemma3,
    matched_monte_carlo,
    proposition1,
    proposition2,
    remark1,
    theorem1,
    theorem2,
)
from samlib.paper.theory.verify.attack import theorem4, theorem5
from samlib.paper.theory.verify.geometry import no_contraction, path, path_table, proposition3, proposition4, theorem3
from samlib.paper.theory.verify.sam import experiment1, experiment2, proposition5
from samlib.paper.theory.verify.table import Check, Ledger, as_table

__all__ = [
    "Check",
    "Ledger",
    "as_table",
    "corollary1",
    "counterexamples",
    "definition1",
    "definition2",
    "definition3",
    "definition4",
    "experiment1",
    "experiment2",
    "lemma1",
    "lemma2",
    "lemma3",
    "matched_monte_carlo",
    "no_contraction",
    "path",
    "path_table",
    "proposition1",
    "proposition2",
    "proposition3",
    "proposition4",
    "proposition5",
    "remark1",
    "theorem1",
    "theorem2",
    "theorem3",
    "theorem4",
    "theorem5",
]

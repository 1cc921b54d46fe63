"""The claims ledger: what the paper claims, how it is decided here, and the verdicts that a run's data give."""

from samlib.paper.claims.distance import dataset_of
from samlib.paper.claims.entropy import entropy_sentence
from samlib.paper.claims.general import general_ledger, mixture_ledger, optimizers_ledger, theorem_ledger
from samlib.paper.claims.ledger import (
    CLAIMS,
    CONTRADICTED,
    CONTROLS,
    INCONCLUSIVE,
    LEVEL,
    NO_DIFFERENCE,
    SUPPORTED,
    VERDICTS,
    Claim,
    decide,
    ledger,
    sentence,
    verdict,
)  # fmt: skip
from samlib.paper.claims.records import provenance_of, read, record, record_ablations, verdicts, with_recorded
from samlib.paper.claims.settings import (
    ACCURACY,
    TRAIN_LOSS,
    ablation_table,
    explained,
    explained_sentence,
    matched,
    matched_sentence,
    optimizer_ledger,
    optimizer_table,
    pattern_sentence,
)
from samlib.paper.claims.statistics import Effect
from samlib.paper.claims.subclasses import attacks_by_subclass, influence_by_subclass, memorization_by_subclass

__all__ = [
    "ACCURACY",
    "CLAIMS",
    "CONTRADICTED",
    "CONTROLS",
    "INCONCLUSIVE",
    "LEVEL",
    "NO_DIFFERENCE",
    "SUPPORTED",
    "TRAIN_LOSS",
    "VERDICTS",
    "Claim",
    "Effect",
    "ablation_table",
    "attacks_by_subclass",
    "dataset_of",
    "decide",
    "entropy_sentence",
    "explained",
    "explained_sentence",
    "general_ledger",
    "influence_by_subclass",
    "ledger",
    "matched",
    "matched_sentence",
    "memorization_by_subclass",
    "mixture_ledger",
    "optimizer_ledger",
    "optimizer_table",
    "optimizers_ledger",
    "pattern_sentence",
    "provenance_of",
    "read",
    "record",
    "record_ablations",
    "sentence",
    "theorem_ledger",
    "verdict",
    "verdicts",
    "with_recorded",
]

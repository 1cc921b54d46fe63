"""The claims ledger: what the paper claims, how it is decided here, and the verdicts that a run's data give."""

from samlib.claims.entropy import entropy_sentence
from samlib.claims.ledger import (
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
from samlib.claims.records import provenance_of, read, record, with_recorded
from samlib.claims.statistics import Effect

__all__ = [
    "CLAIMS", "CONTRADICTED", "CONTROLS", "INCONCLUSIVE", "LEVEL", "NO_DIFFERENCE", "SUPPORTED", "VERDICTS", "Claim", "Effect",
    "decide", "entropy_sentence", "ledger", "provenance_of", "read", "record", "sentence", "verdict", "with_recorded",
]  # fmt: skip

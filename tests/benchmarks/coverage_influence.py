"""Coverage of the intervals of influence, and verdicts of optimizers exchanged at random: models, examples and tests drawn anew.

python tests/benchmarks/coverage_influence.py 200        # pairs; several seconds each
"""

import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from carried import drawn
from simulated import swapped

from samlib.paper import entropy, influence
from samlib.paper.frames import EACH
from samlib.paper.sets import models_of

POOLED = ("C8", "C10")


def effects(pair):
    """The effects of C6 and C7, however small the energy in all, and of C9, C10 and the control."""
    energy = influence.energies(models_of(pair))
    found = {claim: each.effect for claim, each in entropy.decided(pair).items() if each}
    return found | ({"C6": influence.one(energy.share, 2, influence.HIGHEST), "C7": energy.middle} if energy else {})


def main(n: int) -> None:
    warnings.simplefilter("ignore")
    influence.EACH, found, exchanged = 1.9, {}, {}
    for seed in range(n):
        pair = drawn(seed, spread=0.05, sam=(1.1, 0.9))
        which = np.random.default_rng(seed).random(pair.sgd.sizes["model"]) < 0.5
        for kept, each in ((found, effects(pair)), (exchanged, effects(swapped(pair, which)))):
            for claim, effect in each.items():
                kept.setdefault(claim, []).append(effect)
    for claim, these in sorted(found.items()):
        estimates, errors = (np.array([getattr(e, field) for e in these]) for field in ("estimate", "stderr"))
        line = f"{claim:22} sd {estimates.std(ddof=1):.4f}, stderr {np.sqrt((errors**2).mean()):.4f}"
        for level in (0.05, EACH):
            inside = [low < estimates.mean() < high for low, high in (e.interval(level) for e in these)]
            line += f", {1 - level:.4f} covers {np.mean(inside):.4f}"
        if claim not in POOLED:
            beyond = [low > 0 or high < 0 for low, high in (e.interval(0.05) for e in exchanged[claim])]
            line += f", exchanged beyond 0 at .05: {np.mean(beyond):.3f}"
        print(f"{line} ({len(these)} pairs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

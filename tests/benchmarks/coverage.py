"""Do intervals cover? Simulated with both sources of randomness: each draw has new models and new examples.

python tests/benchmarks/coverage.py [draws, 1000]
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
import stores

from samlib import audit
from samlib.inference import LEVEL, Effect, mean
from samlib.paper import membership, memorization
from samlib.paper.frames import EACH

SHAPES = ((12, 250), (12, 1000), (64, 250), (64, 1000))  # models, examples
ATTACKS = ("confidence", "LiRA online", "LiRA offline", "RMIA offline")
RATES = (0.1, 0.01, 0.001)


def effects(rng, n_models: int, n: int, only=None) -> dict[str, Effect]:
    """The effect of every statistic on one new pair of runs, by name."""
    pair = stores.pair(rng, n_models, n, n)
    scores, data = memorization.Scores(pair), stores.points(rng, n)
    attacked: dict[str, list] = {}

    def found(attack):
        if attack not in attacked:
            attacked[attack] = [audit.attack_scores(runs, (attack,)) for runs in pair[:2]]
        return attacked[attack]

    def terms(attack):
        return membership._gap(membership._auc(each, attack) for each in found(attack)).effect

    makers = {"C1": lambda: mean(pair.sam.test_correct.values.astype(float) - pair.sgd.test_correct.values)}
    makers |= {f"AUC {attack}": lambda attack=attack: terms(attack) for attack in ATTACKS}
    makers |= {
        f"TPR at {rate:g}": lambda rate=rate: getattr(membership.tpr(found("LiRA online"), rate=rate), "effect", None)
        for rate in RATES
    }
    makers |= {
        "C3": lambda: memorization.lowest_range(pair, scores),
        "C4": lambda: memorization.lower_scores(pair, scores),
        "C5": lambda: memorization.more_memorized(pair, scores, data),
        "C15": lambda: getattr(membership.output_spread(pair), "effect", None),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*are left out")
        return {name: make() for name, make in makers.items() if only is None or name in only}


def table(draws: int, n_models: int, n: int, seed: int = 0, only=None) -> pd.DataFrame:
    """A row for each statistic: its interval's coverage, its standard error over the true deviation, and its degrees of freedom.

    The true value is the mean over all draws, and so is that of the family: all statistics at once, each at the level EACH.
    """
    rng = np.random.default_rng(seed)
    kept: dict[str, list[Effect]] = {}
    for _ in range(draws):
        for name, effect in effects(rng, n_models, n, only).items():
            if effect is not None:
                kept.setdefault(name, []).append(effect)
    rows, family = {}, np.ones(draws, bool)
    for name, each in kept.items():
        estimate, stderr, df = (np.array([float(getattr(e, field)) for e in each]) for field in Effect._fields[:3])
        inside = {}
        for level in (LEVEL, EACH):
            low, high = Effect(estimate, stderr, df, stderr).interval(level)
            inside[level] = (low <= estimate.mean()) & (estimate.mean() <= high)
        if len(each) == draws:
            family &= inside[EACH]
        rows[name] = {
            "coverage": inside[LEVEL].mean(),
            "stderr / true": np.sqrt((stderr**2).mean()) / estimate.std(ddof=1),
            "df": np.median(df),
            "mean": estimate.mean(),
            "draws": len(each),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.loc["family at once", ["coverage", "draws"]] = family.mean(), draws
    return frame


if __name__ == "__main__":
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for shape in SHAPES:
        start = time.process_time()
        found = table(draws, *shape)
        print(f"{shape[0]} models, {shape[1]} examples ({time.process_time() - start:.0f} s)")
        print(found.round(3).to_string(), flush=True)

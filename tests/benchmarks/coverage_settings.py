"""How often the intervals of lengths and ablations cover the truth, nominally 95 %.

`python tests/benchmarks/coverage_settings.py [simulations]`

Simulated data in which models, examples and, for the line through settings, settings too vary.

Measured on 2026-11-26 with numpy 2, 1,000 simulations each (standard error .007):
- equal train loss: .944 with 8 lengths, .936 with 15
- the line at equal accuracy: .968 with 6 settings, .964 with 10, .960 with 20; .984 with 10 that scatter little
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_lengths import known
from test_settings import line_data

from samlib.paper import ablations, lengths


def report(name, found, truth):
    """Print the coverage, and the mean standard error over the deviation of the estimates."""
    ends = np.array([effect.interval() for effect in found], float)
    estimates = np.array([float(effect.estimate) for effect in found])
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
    ratio = np.median([float(effect.stderr) for effect in found]) / estimates.std()
    print(
        f"{name}: coverage {covered:.3f}, standard error {ratio:.2f} of the true one, {len(found)} of {N}", flush=True
    )


N = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
for step in (0.6, 0.3):
    rng = np.random.default_rng(1)
    rows = [lengths.at_loss(known(rng, step=step), 0.5)[1] for _ in range(N)]
    report(f"equal train loss, {round(4.2 / step) + 1} lengths", [row.effect for row in rows if row], 0.01)
for settings, scatter in ((6, 0.01), (10, 0.01), (20, 0.01), (10, 0.002)):
    rng = np.random.default_rng(2)
    lines = [ablations.line(*line_data(rng, settings, scatter=scatter)) for _ in range(N)]
    name = f"line at equal accuracy, {settings} settings, scatter {scatter}"
    report(name, [line.height for line in lines if line.height], 0.01)

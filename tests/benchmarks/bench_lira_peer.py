"""LiRA beside its authors' script on the same logits, in one process: scores, AUC, time and peak memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_lira_peer.py plot.py [signals.npz]

plot.py is research/mi_lira_2021/plot.py of tensorflow/privacy. Without a file of `logit` and `member` (models, examples),
65 models on 4,000 examples are simulated. The first model is the target. The script takes medians where the paper's
algorithm 1 takes means. "Means" puts means there, and then all scores must agree.
"""

import runpy
import sys
import time
import tracemalloc
from functools import partial
from types import SimpleNamespace

import numpy as np

from samlib import attacks, evaluation


def measured(function, sign, member):
    times = []
    for _ in range(5):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    tracemalloc.start()
    scores = sign * np.asarray(function())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    auc = evaluation.evaluate(scores, member).auc.value
    return scores, f"AUC {auc:.4f}, {1e3 * min(times):.1f} ms, {peak / 1e6:.1f} MB"


def main(script, signals=None):
    peer = runpy.run_path(script)
    rng = np.random.default_rng(0)
    member = rng.random((65, 4000)) < 0.5
    logit = member * rng.exponential(size=4000) + rng.gamma(4, 0.25, 4000) * rng.normal(size=member.shape)
    if signals:
        with np.load(signals) as file:
            logit, member = file["logit"].astype(float), file["member"]
    means = SimpleNamespace(**{**vars(np), "median": np.mean})
    for variance, averages in {"example": {"medians": np, "means": means}, "reference": {"medians": np}}.items():
        for mode, name in (("online", "generate_ours"), ("offline-two-sided", "generate_ours_offline")):
            run = partial(attacks.lira, logit[0], logit[1:], member[1:], mode=mode, variance=variance, truncate=True)
            ours, said = measured(run, 1, member[0])
            print(f"{mode}, {variance}\n  samlib  {said}")
            arrays = member[1:], logit[1:, :, None], member[:1], logit[:1, :, None]
            for average, module in averages.items():
                peer[name].__globals__["np"] = module
                run = partial(peer[name], *arrays, fix_variance=variance == "reference")
                theirs, said = measured(lambda run=run: run()[0], -1, member[0])
                print(f"  {average:7} {said}, largest difference {np.abs(ours - theirs).max():.2g}")
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


if __name__ == "__main__":
    main(*sys.argv[1:])

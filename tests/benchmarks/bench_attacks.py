"""The attacks against naive twins written from the papers, in one process and run, as ratios.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_attacks.py [--rounds 5]

The twins are slow, so they run on a part of the shape (a slice of the examples) and their time is scaled up by the
part's share; each line says which. Both sides are medians over the rounds, after a comparison of their results.
Peak memory is the whole process's.
"""

import argparse
import os
import platform
import resource
import time
from statistics import median

import numpy as np
from scipy import stats

from samlib import attacks

N, MODELS, POPULATION, CLASSES = 50_000, 256, 10_000, 10


def seconds(function, rounds):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def line(what, shape, ours, naive, share, goal):
    print(
        f"{what}: {naive / share / ours:,.0f} times the naive twin (goal {goal}); {shape}; "
        f"ours {1e3 * ours:,.1f} ms, twin {naive / share:,.2f} s (measured on {share:.2%} and scaled)",
        flush=True,
    )


def lira_loop(target, shadow, member):
    """One example at a time, its two Gaussians by scipy."""
    scores = np.empty(len(target))
    for i in range(len(target)):
        x_in, x_out = shadow[member[:, i], i], shadow[~member[:, i], i]
        scores[i] = stats.norm.logpdf(target[i], x_in.mean(), x_in.std() + 1e-30) - stats.norm.logpdf(
            target[i], x_out.mean(), x_out.std() + 1e-30
        )
    return scores


def rmia_pairs(target, shadow, member, population, population_shadow, a=0.33):
    """Every ratio over every other one, as the authors' code has it, 1,000 examples (80 MB of pairs) at a time."""
    p_x = ((1 + a) * np.array([s[~m].mean() for s, m in zip(shadow.T, member.T, strict=True)]) + 1 - a) / 2
    p_z = ((1 + a) * population_shadow.mean(0) + 1 - a) / 2
    ratio_x, ratio_z = target / p_x, population / p_z
    return np.concatenate([(r[:, None] / ratio_z >= 1).mean(1) for r in np.array_split(ratio_x, len(ratio_x) // 1000)])


def class_thresholds_pairwise(scores, member, labels, share):
    """Every observed score of a class tried against every score of the class; the first `share` of the candidates."""
    cuts = {}
    for c in np.unique(labels):
        s_in, s_out = scores[(labels == c) & member], scores[(labels == c) & ~member]
        best, tried = 0.0, np.concatenate([s_in, s_out])
        for value in tried[: int(share * len(tried))]:
            accuracy = 0.5 * (np.mean(s_in >= value) + np.mean(s_out < value))
            if accuracy > best:
                best, cuts[c] = accuracy, value
    return cuts


def bench_lira(rng, rounds):
    member = rng.random((MODELS, N), dtype=np.float32) < 0.5
    shadow = rng.standard_normal((MODELS, N), dtype=np.float32)
    shadow += member
    target = rng.standard_normal(N, dtype=np.float32)
    before = peak_mb()
    ours = seconds(lambda: attacks.lira(target, shadow, member), rounds)
    part = slice(0, 1000)
    np.testing.assert_allclose(
        attacks.lira(target, shadow, member)[part],
        lira_loop(target[part].astype(np.float64), shadow[:, part].astype(np.float64), member[:, part]),
        rtol=1e-9,
    )
    naive = seconds(lambda: lira_loop(target[part], shadow[:, part], member[:, part]), min(rounds, 3))
    shape = f"{N:,} examples x {MODELS} models, float32"
    line("LiRA online, per-example variance", shape, ours, naive, 1000 / N, 50)
    for options in ({"variance": "residual"}, {"variance": "reference"}, {"truncate": True}, {"mode": "offline"}):
        spent = seconds(lambda o=options: attacks.lira(target, shadow, member, **o), rounds)
        print(f"  LiRA {options}: {1e3 * spent:,.0f} ms, {naive * N / 1000 / spent:,.0f} times the same twin")
    print(f"  peak memory {peak_mb():,.0f} MB, of which {before:,.0f} MB before the first call (goal under 2,000)")


def bench_rmia(rng, rounds):
    models = 8
    member = np.arange(models)[:, None] % 2 == rng.integers(0, 2, N)
    p, z = rng.random((models + 1, N)), rng.random((models + 1, POPULATION))
    given = {"population": z[0], "population_shadow": z[1:]}
    ours = seconds(lambda: attacks.rmia(p[0], p[1:], member, **given), rounds)
    part = slice(0, 2000)
    args = p[0, part], p[1:, part], member[:, part], z[0], z[1:]
    np.testing.assert_array_equal(attacks.rmia(p[0], p[1:], member, **given)[part], rmia_pairs(*args))
    naive = seconds(lambda: rmia_pairs(*args), min(rounds, 3))
    shape = f"{N:,} examples x {POPULATION:,} population points, {models} models, float64"
    line("RMIA offline", shape, ours, naive, 2000 / N, 100)


def bench_thresholds(rng, rounds):
    seen, labels = rng.random(N) < 0.5, rng.integers(0, CLASSES, N)
    scores = rng.normal(size=N) + 0.5 * seen
    few = rng.permutation(N)[:3000]
    cuts = class_thresholds_pairwise(scores[few], seen[few], labels[few], 1.0)
    wanted = scores >= np.array([cuts[c] for c in range(CLASSES)])[labels]
    called = attacks.threshold(scores[few], seen[few], scores, shadow_labels=labels[few], target_labels=labels)
    # Among equally good thresholds the twin keeps the first that it tried, ours the lowest: a few scores in between.
    assert (called != wanted).mean() < 0.01
    given = {"shadow_labels": labels, "target_labels": labels}
    ours = seconds(lambda: attacks.threshold(scores, seen, scores, **given), rounds)
    naive = seconds(lambda: class_thresholds_pairwise(scores, seen, labels, 0.05), min(rounds, 3))
    line("Class thresholds", f"{N:,} examples, {CLASSES} classes, float64", ours, naive, 0.05, 100)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{os.environ.get('OMP_NUM_THREADS', 'default')} thread(s), numpy {np.__version__}"
    )
    rng = np.random.default_rng(0)
    bench_lira(rng, rounds)
    bench_rmia(rng, rounds)
    bench_thresholds(rng, rounds)


if __name__ == "__main__":
    main()

"""Influence of many models, top-k included, against a float32 numpy product of the same size alone; one run, as a ratio.

    python tests/benchmarks/bench_estimators.py [--models 4000] [--examples 50000] [--tests 2000] [--k 10] [--rounds 3]

The product is what any implementation by matrix algebra has to do at least once; top-k comes on top of it here and not there.
"""

import argparse
import platform
import resource
import time
from statistics import median

import numpy as np
import torch

from samlib import top_influences


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("models", 4000), ("examples", 50_000), ("tests", 2000), ("k", 10), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    member = rng.random((args.models, args.examples), dtype=np.float32) < 0.5
    correct = rng.random((args.models, args.tests), dtype=np.float32) < 0.6
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, numpy {np.__version__}, torch {torch.__version__}")
    ours = [seconds(top_influences, correct, member, args.k) for _ in range(args.rounds)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # before the twin's float32 copies
    left, right = correct.T.astype(np.float32), member.astype(np.float32)
    twin = [seconds(np.matmul, left, right) for _ in range(args.rounds)]
    print(
        f"influence, {args.models} models, {args.examples} examples x {args.tests} test points, top {args.k} included"
    )
    print(f"  ours           {median(ours):6.2f} s, peak memory {peak:.2f} GiB")
    print(f"  numpy float32 product alone {median(twin):6.2f} s: {median(twin) / median(ours):.2f} times ours")


if __name__ == "__main__":
    main()

"""Many inputs, valid, odd and damaged, for each loader: `python tests/benchmarks/fuzz_loaders.py --examples 7000`.

Each must load into arrays that pass the one check and that a plan saw alike, or be refused by a ValueError or OSError of one
sentence; in at most a second of CPU, and within the memory limit. Prints the counts, and each kind of failure with an input
that shows it; ends with 1 where there is one.
"""

import argparse
import collections
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1]))
from loader_inputs import INPUTS

SECONDS = 1.0  # of CPU
HANG = 20  # seconds after which an input is given up
MEMORY = 2 << 30  # bytes beyond what the process has at the start


class Hang(BaseException):
    """No loader catches it."""


def stop(*_):
    raise Hang


def fuzz(name: str, examples: int, start: int) -> tuple[collections.Counter, dict[str, str]]:
    """Try a loader's inputs; returns how many ended how, and an input for each kind of failure."""
    strategy, try_one = INPUTS[name]
    counts, failures, slowest = collections.Counter(), {}, [0.0]

    @seed(start)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(given):
        began = time.process_time()
        signal.alarm(HANG)
        try:
            outcome = try_one(given)
        except (Exception, Hang) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {' '.join(str(error).split())[:160]}"
            failures.setdefault(kind.split(": ")[0], f"{kind}\n    {str(given)[:600]}")
            outcome = "failures"
        finally:
            signal.alarm(0)
        spent = time.process_time() - began
        slowest[0] = max(slowest[0], spent)
        if spent > SECONDS:
            failures.setdefault("slow", f"{spent:.1f} s\n    {str(given)[:600]}")
            outcome = "failures"
        counts[outcome] += 1

    began = time.perf_counter()
    each()
    counted = ", ".join(f"{counts[kind]} {kind}" for kind in ("loaded", "refused", "failures"))
    print(f"{name}: {sum(counts.values())} inputs: {counted}; slowest {slowest[0]:.2f} s of CPU; "
          f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
    return counts, failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*INPUTS], help="loaders; all if none is named")
    parser.add_argument("--examples", type=int, default=7000, help="inputs of each loader")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, stop)
    failed = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in args.names:
        failed |= {f"{name} {kind}": said for kind, said in fuzz(name, args.examples, args.seed)[1].items()}
    print(
        f"peak memory: {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MiB more than at the start"
    )
    for said in failed.values():
        print(f"FAILED {said}")
    sys.exit(bool(failed))

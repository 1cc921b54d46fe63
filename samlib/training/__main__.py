"""Train pairs of models on a machine that has torch and numpy and nothing else.

Copy the folder `samlib` there, which needs no installing, and the job files that `samlib export-job` wrote:

    python -m samlib.training job.npz job.2.npz --minutes 12 --out groups

Take the files in `groups` home and put them into the cache: samlib import-group groups/*.npz. To resume, run the same
command again: it trains only what the folder lacks. If the process is killed, only the models in training are lost.
"""

import argparse
import shlex
import sys
import time
from contextlib import suppress
from math import inf

import torch

from samlib.training import at_once, group_size, train_groups
from samlib.training.box import Box, Work
from samlib.training.files import MB, PACKED, Packs, alone, bound, read_jobs


def main(arguments=None) -> int:
    """Run the command. Returns 0 (also if time or room runs out), 1 after an error, 130 if interrupted; a bad option exits."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m samlib.training", description=__doc__, formatter_class=as_written)
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.add_argument
    add("jobs", nargs="+", metavar="JOB", help="files of samlib export-job; all parts of each job")
    add("--out", required=True, metavar="DIR", help="folder for the trained groups: groups-1.npz and so on")
    add("--minutes", type=_positive, default=inf, help="stop before this time is over; may be a fraction [no limit]")
    add("--device", type=_device, default=gpu, help="cpu, cuda or cuda:1 [the GPU, if there is one]")
    add("--max-mb", type=_positive, default=16, help="most MB (10^6 bytes) of a file in DIR [16]")
    add("--max-files", type=int, default=8, help="most files in DIR [8]")
    options, end = parser.parse_args(arguments), time.monotonic() - time.process_time()  # the import of torch counts
    try:
        with alone(options.out):
            left = _train(options, end + 60 * options.minutes)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"samlib: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"samlib: interrupted; finished models are in {options.out}.", file=sys.stderr)
        return 130
    if left:
        given = sys.argv[1:] if arguments is None else arguments
        print(f"To go on: python -m samlib.training {shlex.join(given)}")
    return 0


def _positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")


def _device(text: str) -> str:
    if text.partition(":")[0] not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:1, not {text!r}")
    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise argparse.ArgumentTypeError(f"cannot use {text!r} ({reason})") from None
    return text


def _train(options, end: float) -> bool:
    """Train until all models are there, the time is up or the folder is full. Returns whether models are missing."""
    packs, pairs = Packs(options.out, int(options.max_mb * MB), options.max_files), list[list[str]]()
    given: dict[str, tuple[dict, dict, int]] = {}  # what a pack says about an experiment, its data, bytes of a group
    works: dict[str, Work] = {}
    for about, data in read_jobs(options.jobs):
        pairs.append([f"{e['key']}-{about['checksum'][:16]}" for e in about["experiments"]])
        for name, e in zip(pairs[-1], about["experiments"], strict=True):
            if name in works:
                continue
            recipe, n, size = e["recipe"], e["n_models"], group_size(e["recipe"])
            missing = [range(k, k + size) for k in range(0, n, size) if (name, k) not in packs.there]
            wave = at_once(recipe, data, options.device, size * len(missing)) if missing else size
            works[name] = Work(missing, n, size, wave, 2 if recipe["rho"] else 1)
            most = bound(size, len(data["y_train"]), len(data["y_test"]))
            given[name] = {**e, "checksum": about["checksum"]}, data, most
    needed = (max(most for *_, most in given.values()) + PACKED) / MB
    if needed > options.max_mb:
        raise ValueError(f"A group of models may take {needed:.2f} MB; give --max-mb at least that.")
    # the room is counted as if each model were as large as the largest
    models = max(work.size for work in works.values())
    unit = int(models * max(most / works[name].size for name, (*_, most) in given.items()))
    box = Box(pairs, works, end)
    while task := box.take(room=models * packs.room(unit)):
        name, groups = task
        (about, data, most), started = given[name], time.monotonic()
        results, seconds, where = train_groups(about["recipe"], data, groups, options.device)
        for group, result in zip(groups, results, strict=True):
            packs.add(name, about, group, result | {"seconds": seconds / len(groups), "machine": where}, most)
        box.finished(name, groups, time.monotonic() - started)
        _say(about["name"], groups, seconds, box.left())
    for pair in pairs:
        asked = min(works[name].n_models for name in pair)
        there = sum(all(k not in works[name].open for name in pair) for k in range(asked))
        print(f"{' and '.join(given[name][0]['name'] for name in pair)}: {there} of {asked} pairs.")
    files = list(packs.folder.glob("groups-*.npz"))
    print(f"{options.out} holds {len(files)} files, {sum(file.stat().st_size for file in files) / MB:.1f} MB.")
    if box.take():  # there is time for another model, so only room is lacking
        print("It may hold no more: take these files home, then give another --out or a larger --max-files.")
    return any(work.missing for work in works.values())


def _say(name: str, groups: list[range], seconds: float, left: float) -> None:
    n = sum(map(len, groups))
    said = f"{name}: models {groups[0].start} to {groups[-1].stop - 1} in {seconds:.1f} s"
    said += f", {60 * n / seconds:.3g} models a minute"
    said += f", {max(left, 0) / 60:.1f} minutes left." if left < inf else "."
    said += f" It ended {-left:.0f} s late." if left < -0.5 else ""
    print(said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Train pairs of models on a machine that has torch and numpy and nothing else.

Copy the folder `samlib` there, which needs no installing, and the job files that `samlib export-job` wrote:

    python -m samlib.training job.npz job.2.npz --minutes 12 --out groups

Take the files of `groups` home and put them into the cache: samlib import-group groups/*.npz. To resume, run the same
command again. It trains only what the folder lacks; a kill loses only the models that were in training.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from contextlib import suppress
from math import inf

import torch

from samlib.training import at_once, group_size, machine, train_group
from samlib.training.box import Box, Work
from samlib.training.files import MB, PACKED, Packs, alone, bound, read_jobs


def main(arguments=None) -> int:
    """Returns the status: 0 also where the time was up or the folder full, 1 for an error, 2 for a bad option."""
    parser = argparse.ArgumentParser(
        "python -m samlib.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="+", metavar="JOB", help="files of samlib export-job; all parts of each job")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for what is trained, groups-1.npz and so on"
    )
    parser.add_argument(
        "--minutes",
        type=_positive,
        default=inf,
        help="stop before so many minutes are over; fractions allowed [no limit]",
    )
    parser.add_argument("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu",
                        help="cpu, cuda or cuda:1 [the GPU, if there is one]")  # fmt: skip
    parser.add_argument("--max-mb", type=_positive, default=16, help="size of a file in DIR, in MB of 10^6 bytes [16]")
    parser.add_argument("--max-files", type=int, default=8, help="number of files in DIR [8]")
    options, end = parser.parse_args(arguments), time.monotonic() - time.process_time()  # to import torch counts
    try:
        with alone(options.out):
            left = _train(options, end + 60 * options.minutes)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"samlib: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"samlib: interrupted; what was finished is in {options.out}.", file=sys.stderr)
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
    """Train until all is there, the time is up or the folder is full; say so. Returns whether anything is left."""
    most, device = int(options.max_mb * MB), options.device
    if device == "cpu":
        torch.set_num_threads(1)  # as a worker, whose bits these are to be
    packs, given, pairs, works, sizes = Packs(options.out, most, options.max_files), {}, [], {}, {}
    for about, data in read_jobs(options.jobs):
        pairs.append([])
        for e in about["experiments"]:
            name, recipe = f"{e['key']}-{about['checksum'][:16]}", e["recipe"]
            pairs[-1].append(name)
            if name in given:
                continue
            size, n = group_size(recipe), e["n_models"]
            missing = [range(k, k + size) for k in range(0, n, size) if (name, k) not in packs.there]
            wave = at_once(recipe, data, device, size * len(missing)) if missing else size
            given[name] = {**e, "checksum": about["checksum"]}, data
            works[name] = Work(missing, n, size, wave, 2 if recipe["rho"] else 1)
            sizes[name] = bound(size, len(data["y_train"]), len(data["y_test"]))
    needed = (max(sizes.values()) + PACKED) / MB
    if needed > options.max_mb:
        raise ValueError(f"A group of models may take {needed:.2f} MB; give --max-mb at least that.")
    # room is counted in the largest groups' models
    models = max(work.size for work in works.values())
    unit = int(models * max(sizes[name] / work.size for name, work in works.items()))
    box = Box(pairs, works, end)
    while task := box.take(room=models * packs.room(unit)):
        name, groups = task
        (about, data), started = given[name], time.monotonic()
        result = train_group(about["recipe"], data, [k for group in groups for k in group], device)
        seconds, size = time.monotonic() - started, works[name].size
        rest = {"seconds": seconds / len(groups), "machine": machine(device)}
        parts = [
            (group, {array: values[i * size : (i + 1) * size] for array, values in result.items()} | rest)
            for i, group in enumerate(groups)
        ]
        packs.add(name, about, parts, sizes[name])
        box.finished(name, groups, time.monotonic() - started)
        _say(about["recipe"], groups, seconds, box.left())
    return _summary(options, pairs, works, given, box, packs)


def _say(recipe: dict, groups: list[range], seconds: float, left: float) -> None:
    n = sum(map(len, groups))
    time_left = "" if left == inf else f", {max(left, 0) / 60:.1f} minutes left"
    late = f" It ended {-left:.0f} s late." if left < -0.5 else ""
    print(
        f"{_named(recipe)}: models {groups[0].start} to {groups[-1].stop - 1} in {seconds:.1f} s, "
        f"{60 * n / seconds:.3g} models a minute{time_left}.{late}",
        file=sys.stderr,
        flush=True,
    )


def _named(recipe: dict) -> str:
    rho = f" rho {recipe['rho']:g}" if recipe["rho"] else ""
    return f"{recipe['dataset']} {recipe['model']} {recipe['optimizer']}{rho}"


def _summary(options, pairs, works, given, box: Box, packs: Packs) -> bool:
    """Say what there is. Returns whether models are missing."""
    missing = False
    for pair in pairs:
        asked = min(works[name].n_models for name in pair)
        there = sum(all(k not in works[name].open for name in pair) for k in range(asked))
        missing |= any(works[name].missing for name in pair)
        print(f"{' and '.join(_named(given[name][0]['recipe']) for name in pair)}: {there} of {asked} pairs.")
    files = sorted(packs.folder.glob("groups-*.npz"))
    print(f"{options.out} holds {len(files)} files, {sum(file.stat().st_size for file in files) / MB:.1f} MB.")
    if box.take():  # with room, it would have gone on
        print("It may hold no more: take these files home, then give another --out or a larger --max-files.")
    return missing


if __name__ == "__main__":
    sys.exit(main())

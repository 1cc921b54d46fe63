"""Fuzz every public function of arrays: a result, or one sentence; no other exception, no hang, bounded memory.

    python tests/benchmarks/fuzz_arrays.py [inputs a function, 600]

`FUNCTIONS` describes the arguments of each function; `tests/test_arguments.py` holds that none is left out.
"""

from __future__ import annotations

import inspect
import math
import resource
import sys
import time
import types
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from samlib import attacks, audit, estimators, evaluation, inference, signals

# What takes no array and no runs: a scalar's helper, and what takes the others' results.
OTHERS = {
    *("tail_of", "align", "membership_table", "folds", "scored", "report"),
    *("deletions", "partitions", "verdict", "needed_models", "from_half", "to_decide"),
}
SECONDS, MEGABYTES = 1.0, 400  # that an input may take, and that the process may grow by
ROOMS = (signals, estimators, inference, evaluation, attacks, audit)


def public() -> dict[str, types.FunctionType]:
    """Every public function of the rooms, by its dotted name."""
    found = {}
    for room in ROOMS:
        for name, value in vars(room).items():
            home = getattr(value, "__module__", "")
            if (
                inspect.isfunction(value)
                and not name.startswith("_")
                and home.startswith(room.__name__)
                and name not in OTHERS
            ):
                found[f"{room.__name__.removeprefix('samlib.')}.{name}"] = value
    return found


# What an argument is: a kind of values and the names of its axes. Sizes: k models, n examples, t tests, z population points,
# c classes, q queries, b draws.
def mask(*axes):
    return ("mask", axes)


def real(*axes):
    return ("real", axes)


def unit(*axes):
    return ("unit", axes)


def labels(*axes):
    return ("labels", axes)


def probs(*axes):
    return ("probs", axes)


COUNT, RATE, RATES, SEED, FLAG, RUNS, PAIR = (
    (name, ()) for name in ("count", "rate", "rates", "seed", "flag", "runs", "pair")
)


def choice(*words):
    return ("choice", words)


EMPTY = choice("nan", "zero")
MODE = choice("online", "offline")
SCORED = {"scores": real("k", "n"), "member": mask("k", "n")}
COUNTED = {"correct_test": mask("k", "t"), "member": mask("k", "n")}
SHADOWED = {"target": real("n"), "shadow": real("k", "n"), "member": mask("k", "n")}
LIKELY = {"target": unit("n"), "shadow": unit("k", "n"), "member": mask("k", "n")}
FUNCTIONS = {
    "signals.from_logits": {"logits": real("k", "n", "c"), "labels": labels("n")},
    "estimators.memorization": {"correct": mask("k", "n"), "member": mask("k", "n"), "empty": EMPTY},
    "estimators.memorization_terms": {"correct": mask("k", "n"), "member": mask("k", "n")},
    "estimators.influence": COUNTED | {"empty": EMPTY},
    "estimators.influence_blocks": COUNTED | {"empty": EMPTY},
    "estimators.top_influences": COUNTED | {"k": COUNT, "labels": (labels("t"), labels("n"))},
    "estimators.influence_entropy": {"influence": real("t", "n")},
    "estimators.entropy_buckets": {"entropy": real("t"), "n_buckets": COUNT},
    "evaluation.evaluate": SCORED | {"fpr": RATES, "confidence": RATE},
    "evaluation.compare": {"scores_a": real("k", "n"), "scores_b": real("k", "n"), "member": mask("k", "n"), "fpr": RATES,
        "confidence": RATE},
    "evaluation.roc": SCORED,
    "evaluation.tpr_at": SCORED | {"fpr": RATE},
    "inference.clopper_pearson": {"successes": ("counts", ("n",)), "trials": ("counts", ("n",)), "confidence": RATE},
    "inference.epsilon_lower_bound": {"true_positives": COUNT, "n_members": COUNT, "false_positives": COUNT,
        "n_nonmembers": COUNT, "delta": RATE, "confidence": RATE},
    "evaluation.epsilon": SCORED | {"confidence": RATE},
    "evaluation.vulnerability": SCORED | {"fpr": RATE},
    "evaluation.auc_terms": SCORED,
    "evaluation.advantage_terms": SCORED,
    "evaluation.rate_terms": {"hit": mask("k", "n"), "member": mask("k", "n")},
    "evaluation.tpr_terms": SCORED | {"fpr": RATE},
    "inference.mean": {"terms": real("k", "n")},
    "inference.jackknife": {"values": real("k", "n"), "factors": COUNT, "extra": RATE},
    "inference.crossing": {"terms": real("k", "n"), "cut": RATE},
    "inference.groups": {"ids": labels("n"), "n_groups": COUNT},
    "inference.shares": {"scores": real("n"), "n_buckets": COUNT},
    "inference.ranks": {"scores": real("n"), "weights": unit("n")},
    "inference.reliability": {"first": real("b", "n"), "second": real("b", "n"), "n_models": COUNT, "goal": RATE},
    "inference.across": {"estimates": real("n"), "stderrs": unit("n"), "level": RATE},
    "attacks.correctness": {"probs": probs("n", "c"), "labels": labels("n")},
    "attacks.confidence": {"probs": probs("n", "c"), "labels": labels("n")},
    "attacks.loss": {"probs": probs("n", "c"), "labels": labels("n")},
    "attacks.entropy": {"probs": probs("n", "c"), "labels": labels("n")},
    "attacks.modified_entropy": {"probs": probs("n", "c"), "labels": labels("n")},
    "attacks.threshold": {"shadow_scores": real("n"), "shadow_member": mask("n"), "target_scores": real("t"),
        "shadow_labels": labels("n"), "target_labels": labels("t")},
    "attacks.population": {"target": real("n"), "population": real("z"), "target_labels": labels("n"),
        "population_labels": labels("z")},
    "attacks.difficulty_calibration": SHADOWED,
    "attacks.label_only": {"target_correct": mask("n", "q"), "shadow_correct": mask("k", "n", "q"), "shadow_member":
        mask("k", "n")},
    "attacks.moments": {"shadow": real("k", "n"), "member": mask("k", "n"), "truncate": FLAG, "medians": FLAG},
    "attacks.leave_one_out": {"signals": real("k", "n"), "member": mask("k", "n")},
    "attacks.lira": SHADOWED | {"mode": choice("online", "offline", "offline-two-sided"), "variance": choice("example",
        "residual", "reference"), "truncate": FLAG},
    "attacks.rmia": LIKELY | {"population": unit("z"), "population_shadow": unit("k", "z"), "population_member": mask("k",
        "z"), "mode": MODE, "gamma": RATE, "a": RATE},
    "attacks.base": LIKELY | {"mode": MODE, "a": RATE},
    "attacks.quantile_regression": {"public_features": real("p", "c"), "public_scores": real("p"), "target_features":
        real("n", "c"), "target_scores": real("n"), "regressor": ("regressor", ()), "seed": SEED},
    "audit.compared": {"sgd": real("k", "n"), "sam": real("k", "n")},
    "audit.usable": {"runs": RUNS},
    "audit.left_out": {"runs": RUNS},
    "audit.attack_scores": {"runs": RUNS, "names": ("names", ())},
    "audit.compare_attacks": {"sgd": ("attacked", ()), "sam": ("attacked", ()), "fpr": RATES},
    "audit.threshold_table": {"pair": PAIR},
    "audit.accuracy_table": {"pair": PAIR},
    "audit.memorization_table": {"pair": PAIR},
    "audit.link": {"runs": RUNS, "attack": choice(*audit.ATTACKS)},
}  # fmt: skip
ARRAYS = ("mask", "real", "unit", "labels", "probs")


def call(name: str, arguments: dict):
    """The function's result, whole: blocks are read."""
    function = public()[name]
    found = function(**arguments)
    return list(found) if inspect.isgenerator(found) else found


def valid(kind, sizes: dict, rng) -> object:
    """A good argument. Numbers are eighths, which every float type holds; examples have models in and out where there are two."""
    if isinstance(kind[0], tuple):
        return tuple(valid(each, sizes, rng) for each in kind)
    kind, axes = kind
    shape = tuple(sizes[a] for a in axes if a in sizes) if kind != "choice" else ()
    match kind:
        case "mask":
            found = rng.random(shape) < 0.5
            if found.size > 1:
                found.flat[0], found.flat[-1] = True, False
            if len(shape) > 1 and shape[0] > 1:  # in and out for each example, and for each model
                found[:2] = (
                    [np.arange(shape[1]) % 2 == 0, np.arange(shape[1]) % 2 == 1] if len(shape) == 2 else found[:2]
                )
            return found
        case "real":
            return rng.integers(-24, 25, shape) / 8
        case "unit":
            return rng.integers(1, 9, shape) / 8
        case "probs":
            counts = rng.multinomial(8, np.full(shape[-1], 1 / shape[-1]), shape[:-1])
            return counts / 8
        case "labels":
            return np.arange(shape[0]) % max(1, min(sizes["c"], sizes["t"], sizes["z"], sizes["n"]))
        case "counts":
            return np.full(shape, 7)
        case "edges":
            return np.array([-4.0, 0, 1, 4])
        case "count":
            return 2
        case "rate":
            return 0.25
        case "rates":
            return (0.1, 0.25)
        case "seed":
            return 0
        case "flag":
            return False
        case "choice":
            return axes[int(rng.integers(len(axes)))]
        case "regressor":
            return LinearRegression()
        case "names":
            return ("LiRA online", "RMIA offline", "BASE", "population", "quantile regression")
        case "runs":
            return runs(sizes, rng)
        case "pair":
            first = runs(sizes, rng)
            return audit.Pair(first, first.copy(), "SAM")
        case "attacked":
            member = valid(mask("k", "n"), sizes, np.random.default_rng(sizes["n"]))
            return audit.Attacked({"one": rng.integers(-24, 25, member.shape) / 8}, member)


def runs(sizes: dict, rng) -> xr.Dataset:
    """What `run` would return of random models."""
    k, n, t = sizes["k"] * 2 - sizes["k"] % 2, sizes["n"], sizes["t"]  # of a link, half are the targets
    member = np.arange(k)[:, None] // 2 % 2 == np.arange(n) % 2
    found = {"member": (("model", "example"), member)}
    for side, dim, size in (("", "example", n), ("test_", "test", t)):
        found[f"{side}correct"] = (("model", dim), rng.random((k, size)) < 0.6)
        for signal in ("logit", "entropy", "modified_entropy"):
            found[side + signal] = (("model", dim), np.abs(rng.normal(size=(k, size))).astype(np.float32))
    found |= {name: ("model", rng.random(k)) for name in ("train_loss", "train_accuracy", "test_accuracy")}
    coordinates = {
        "model": np.arange(k),
        "label": ("example", np.arange(n) % 2),
        "test_label": ("test", np.arange(t) % 2),
    }
    return xr.Dataset(found, coordinates, {"data_checksum": "0"})


ODD = [
    None, "abc", b"ab", "", object(), {}, {"a": 1}, {1, 2}, [], [[]], [1, [2, 3]], ["1", "2"], [None],
    [Decimal("0.5")], [2**70], [10**400], 0, -1, 1, 2, 0.0, -0.5, 0.5, 1.5, np.nan, np.inf, -np.inf, 1e300, True, 1j,
    [1j], np.float32(0.1), np.array(0.1), np.array([0.1]), np.array([[0.1, 0.2]]), torch.tensor(0.5),
    torch.ones(3).bfloat16(), torch.ones(2, 2, requires_grad=True), torch.empty(2, device="meta"),
    torch.eye(2).to_sparse(), pd.Series([1, None], dtype="Int64"), pd.DataFrame({"a": pd.array([True, None],
    "boolean")}), pd.to_datetime(["2020-01-01"]), np.array(["2020"], "M8[D]"), np.array([1], "m8[s]"),
    np.ma.masked_array([1.0, 2], [0, 1]), xr.Dataset({"a": ("x", [1.0])}), (i for i in [1]), range(2), np.zeros(2,
    [("a", int)]), np.random.default_rng(0), 10**30, -(2**63), np.uint64(2**64 - 1), np.longdouble(2),
]  # fmt: skip
TYPES = ["?", "i1", "u1", "i8", "u8", ">i4", "f2", "f4", "f8", ">f8", "g", "O"]


def changed(draw, value, rng):
    """A good array, made strange."""
    how = draw(st.integers(0, 15))
    value = np.atleast_1d(value)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match how:
            case 0 | 1:
                return value.astype(draw(st.sampled_from(TYPES)))
            case 2 | 3:
                special = draw(
                    st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e300, 3e38, 1e-310, 2.0**63, -1.0, 0.5])
                )
                value = value.astype(float)
                value[rng.random(value.shape) < draw(st.sampled_from([0.05, 0.5, 1.0]))] = special
                return value
            case 4 | 5:
                return np.full_like(value, draw(st.sampled_from([0, 1])))
            case 6:
                return value * draw(st.sampled_from([1e-30, 1e30, -1, 1e90]))
            case 7:
                return value[..., None]
            case 8:
                return value[None]
            case 9:
                return value[:-1]
            case 10:
                return value[..., :1]
            case 11:
                return value[:0]
            case 12:
                return value.T
            case 13:
                return value.tolist()
            case 14:
                return torch.as_tensor(value).to(
                    draw(st.sampled_from([torch.bfloat16, torch.float16, torch.bool, torch.int32]))
                )
            case 15:
                return (
                    pd.DataFrame(value).convert_dtypes()
                    if value.ndim == 2
                    else pd.Series(value.ravel()).convert_dtypes()
                )


@st.composite
def inputs(draw, name: str) -> dict:
    """Arguments of a function: sizes, a seed, and what is made strange in it."""
    size = st.integers(1, 9)
    sizes = {a: draw(size) for a in "kntzcqmb"} | {"p": draw(st.integers(9, 12)), "e": 4}
    if draw(st.booleans()):  # as many as most functions need
        sizes |= {a: max(sizes[a], 8) for a in "kn"} | {"c": max(sizes["c"], 2)}
        sizes |= {"t": max(sizes["t"], 10)} if RUNS in FUNCTIONS[name].values() else {}
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    arguments = {key: valid(kind, sizes, rng) for key, kind in FUNCTIONS[name].items()}
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2, 3]))):
        key = draw(st.sampled_from(sorted(arguments)))
        value = arguments[key]
        if isinstance(value, xr.Dataset) and "model" in value.dims and draw(st.booleans()):
            signal = draw(st.sampled_from(sorted(value)))
            arguments[key] = draw(
                st.sampled_from(
                    [value.drop_vars(signal), value.assign({signal: value[signal] * 0}), value.isel(model=slice(3))]
                )
            )
        elif isinstance(value, np.ndarray) and value.dtype in (bool, int, float) and draw(st.integers(0, 3)):
            arguments[key] = changed(draw, value, rng)
        else:
            arguments[key] = draw(st.sampled_from(ODD))
    return arguments


def one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and ". " not in text


def tried(name: str, arguments: dict, limit: float) -> str:
    """ "result" or "refused"; raises AssertionError for anything else."""
    start = time.process_time()  # of the processor, since the machine may be busy
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("ignore", UserWarning)
            call(name, arguments)
        found = "result"
    except (ValueError, TypeError) as error:
        found, said = "refused", str(error)
    assert found == "result" or one_sentence(said), f"{name}: {said}"
    seconds = time.process_time() - start
    assert seconds < limit, f"{name} took {seconds:.1f} s"
    return found


def fuzz(name: str, n: int, limit: float = math.inf) -> dict[str, int]:
    """How many of n inputs gave a result and how many were refused, each within `limit` seconds."""
    counts = {"result": 0, "refused": 0}

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(name))
    def each(arguments):
        counts[tried(name, arguments, limit)] += 1

    each()
    return counts


if __name__ == "__main__":
    n, total, failed = int(sys.argv[1]) if len(sys.argv) > 1 else 600, 0, []
    for name in FUNCTIONS:
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        try:
            counts = fuzz(name, n, SECONDS)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(name)
            print(
                f"{name}: {type(error).__name__}: {str(error)[:300]}\n  {getattr(error, '__notes__', '')}", flush=True
            )
            continue
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        total += sum(counts.values())
        used = f"{time.perf_counter() - start:6.1f} s {grown:5.0f} MB"
        print(f"{name:36} {counts['result']:6} results {counts['refused']:6} refused {used}", flush=True)
        assert grown < MEGABYTES, name
    print(f"{total} inputs; failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))

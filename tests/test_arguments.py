"""Arguments of every public function of arrays: what can be converted gives the same result; the rest is one sentence."""

import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from benchmarks import fuzz_arrays as fuzz

import samlib
from samlib import attacks, checks, evaluation, inference
from samlib.paper import confirm
from samlib.runs import export_job

pytestmark = [
    pytest.mark.slow,  # many
    pytest.mark.filterwarnings("ignore:the matrix subclass is not the recommended way"),
]
SIZES = {"k": 8, "n": 9, "t": 10, "z": 7, "c": 3, "q": 2, "b": 3, "p": 10, "e": 4}
TAKES = [
    (name, argument)
    for name, kinds in fuzz.FUNCTIONS.items()
    for argument, (kind, _) in kinds.items()
    if kind in (*fuzz.ARRAYS, "counts", "edges")
]


def good(name: str) -> dict:
    rng = np.random.default_rng(3)
    return {key: fuzz.valid(kind, SIZES, rng) for key, kind in fuzz.FUNCTIONS[name].items()}


def leaves(found) -> list:
    """A result as a list of arrays and numbers."""
    if isinstance(found, (tuple, list)):
        return [leaf for each in found for leaf in leaves(each)]
    if isinstance(found, dict):
        return leaves(list(found.values()))
    if callable(found):  # of a model's number
        return leaves(found(0))
    if hasattr(found, "__dataclass_fields__"):
        return leaves(list(vars(found).values()))
    return [None if found is None or isinstance(found, slice) else np.asarray(found, float)]


def test_every_public_function_of_arrays_is_described():
    """So that a new one is held to all of this."""
    assert sorted(fuzz.public()) == sorted(fuzz.FUNCTIONS)


def spaced(a):
    wide = np.zeros((*a.shape, 2), a.dtype)
    wide[..., 0] = a
    return wide[..., 0]


def mapped(a, folder):
    np.save(folder / "a.npy", a)
    return np.load(folder / "a.npy", mmap_mode="r")


def frozen(a, folder):
    a.setflags(write=False)
    return a


NULLABLE = {"b": "boolean", "i": "Int64", "f": "Float64"}
# What holds the numbers of an array, by name; None where it cannot.
FORMS = {
    "list": lambda a, _: a.tolist(),
    "tuple": lambda a, _: tuple(a.tolist()),
    "list of arrays": lambda a, _: list(a),
    "Fortran order": lambda a, _: np.asfortranarray(a),
    "with gaps": lambda a, _: spaced(a),
    "backwards": lambda a, _: a[::-1].copy()[::-1],
    "read-only": frozen,
    "memory map": mapped,
    "big-endian": lambda a, _: a.astype(a.dtype.newbyteorder(">")),
    "float16": lambda a, _: a.astype(np.float16),
    "long double": lambda a, _: a.astype(np.longdouble),
    "matrix": lambda a, _: np.asmatrix(a) if a.ndim == 2 else None,
    "masked, nothing": lambda a, _: np.ma.masked_array(a, np.zeros(a.shape, bool)),
    "Decimal": lambda a, _: np.array([Decimal(float(v)) for v in a.flat], object).reshape(a.shape),
    "Fraction": lambda a, _: np.array([Fraction(float(v)) for v in a.flat], object).reshape(a.shape),
    "xarray": lambda a, _: xr.DataArray(a),
    "tensor": lambda a, _: torch.as_tensor(a),
    "bfloat16": lambda a, _: torch.as_tensor(a).bfloat16(),
    "float8": lambda a, _: torch.as_tensor(a).to(torch.float8_e4m3fn),
    "tensor with gradient": lambda a, _: torch.as_tensor(a).double().requires_grad_(),
    "list of bfloat16": lambda a, _: [torch.as_tensor(row).bfloat16() for row in a],
    "list with gradient": lambda a, _: [torch.as_tensor(row).double().requires_grad_() for row in a],
    "list of lists of tensors": lambda a, _: [[torch.as_tensor(v).bfloat16() for v in row] for row in a] if a.ndim == 2 else None,
    "sparse": lambda a, _: torch.as_tensor(a).double().to_sparse(),
    "array of tensors": lambda a, _: pd.Series([torch.as_tensor(v).bfloat16() for v in a]) if a.ndim == 1 else None,
    "Series": lambda a, _: pd.Series(a) if a.ndim == 1 else None,
    "nullable Series": lambda a, _: pd.Series(a, dtype=NULLABLE[a.dtype.kind]) if a.ndim == 1 else None,
    "nullable array": lambda a, _: pd.array(a, dtype=NULLABLE[a.dtype.kind]) if a.ndim == 1 else None,
    "DataFrame": lambda a, _: pd.DataFrame(a) if a.ndim == 2 else None,
    "nullable DataFrame": lambda a, _: pd.DataFrame(a).astype(NULLABLE[a.dtype.kind]) if a.ndim == 2 else None,
    "mixed DataFrame": lambda a, _: pd.DataFrame(a).astype({0: object, 1: "Float64"}) if a.ndim == 2 else None,
    "pyarrow DataFrame": lambda a, _: pd.DataFrame(a).convert_dtypes(dtype_backend="pyarrow") if a.ndim == 2 else None,
}  # fmt: skip
NARROW = {
    "float16",
    "bfloat16",
    "list of bfloat16",
    "list of lists of tensors",
    "float8",
}  # the signals' type follows theirs


@pytest.mark.parametrize(("name", "argument"), TAKES)
def test_whatever_holds_the_numbers_gives_the_same_result(name, argument, tmp_path):
    expected = leaves(fuzz.call(name, good(name)))
    for form, convert in FORMS.items():
        given = good(name)
        array = np.asarray(given[argument])
        if form == "float8" and (np.abs(array) > 2).any():  # it holds no larger eighths
            continue
        given[argument] = convert(array, tmp_path)
        if given[argument] is None:
            continue
        found = leaves(fuzz.call(name, given))
        for a, b in zip(expected, found, strict=True):
            tolerance = 1e-6 if form in NARROW else 1e-12  # sums go in the order of memory
            assert a is b is None or np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True), form


BAD = {
    "a word": "abc",
    "bytes": b"ab",
    "words": ["1", "2"],
    "words as objects": np.array(["1", 2], object),
    "a set": {0, 1},
    "a dict": {"a": 1},
    "an object": object(),
    "a generator": (i for i in (0, 1)),
    "ragged": [[1, 2], [1]],
    "ragged tensors": [torch.ones(2), torch.ones(3)],
    "empty": [],
    "empty rows": np.zeros((2, 0)),
    "complex": [1j, 0],
    "complex tensor": torch.ones(2, dtype=torch.complex64),
    "dates": np.array(["2020", "2021"], "M8[D]"),
    "dates of pandas": pd.Series(pd.to_datetime(["2020-01-01", "2020-01-02"])),
    "durations": np.array([1, 0], "m8[D]"),
    "records": np.zeros(2, [("a", int)]),
    "xarray.Dataset": xr.Dataset({"a": ("x", [1.0])}),
    "words in a table": pd.DataFrame({"a": ["1", "0"]}),
    "numbers too long": [10**400, 0],
    "a meta tensor": torch.empty(2, device="meta"),
    "five dimensions": np.zeros((1,) * 5),
}
MISSING = {
    "NaN": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.nan, a),
    "None": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, None, a.astype(object)),
    "NA": lambda a: pd.DataFrame(np.where(np.arange(a.size).reshape(a.shape) == 1, None, a)).astype("Float64") if a.ndim == 2 else
    pd.Series(np.where(np.arange(a.size) == 1, None, a)).astype("Float64"),
    "masked": lambda a: np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) == 1),
    "rows masked": lambda a: [*np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) == 1)],
}  # fmt: skip
# Where a column may be many targets of one example, or labels that broadcast.
REFUSES_COLUMNS = {
    ("inference.ranks", "weights"),
    ("signals.from_logits", "labels"),
    *(("inference.clopper_pearson", argument) for argument in ("successes", "trials")),
    *(("attacks.threshold", argument) for argument in ("shadow_scores", "shadow_member", "target_scores")),
    *(("attacks.population", argument) for argument in ("target", "population")),
}
NAN_IS_FINE = {
    *("estimators.influence_entropy", "audit.compared"),
    *("inference.jackknife", "inference.crossing"),
}


def test_text_and_none_are_called_by_their_names():
    for value, said in (("0.01", "text"), ([b"1"], "text"), (None, "None")):
        with pytest.raises(ValueError, match=f"^fpr must be an array of numbers, not (of )?{said}\\.$"):
            samlib.evaluate([1, 2], [True, False], fpr=value)


@pytest.mark.parametrize(("name", "argument"), TAKES)
def test_what_holds_no_numbers_is_one_sentence_that_names_the_argument(name, argument):
    for what, value in BAD.items():
        if what == "five dimensions" and name.startswith("inference."):
            continue  # which take any number
        with pytest.raises(ValueError, match=rf"\b{argument}\b") as error:
            fuzz.call(name, good(name) | {argument: value})
        assert fuzz.one_sentence(str(error.value)), (what, str(error.value))


@pytest.mark.parametrize(("name", "argument"), TAKES)
def test_missing_values_are_counted_or_left_out(name, argument):
    for what, spoil in MISSING.items():
        given = good(name)
        array = np.asarray(given[argument])
        if (array.ndim > 2 and what == "NA") or (array.ndim < 2 and what == "rows masked"):
            continue
        given[argument] = spoil(array)
        if name in NAN_IS_FINE and argument != "edges":
            fuzz.call(name, given)
            continue
        with pytest.raises(ValueError, match=f"{argument} holds 1 NaN value") as error:
            fuzz.call(name, given)
        assert fuzz.one_sentence(str(error.value))


@pytest.mark.parametrize(("name", "argument"), TAKES)
def test_a_column_counts_as_a_row_of_numbers_or_is_refused(name, argument):
    """As a table of one column gives it, for every argument of one dimension."""
    given = good(name)
    if np.ndim(given[argument]) != 1:
        pytest.skip("more dimensions")
    expected = leaves(fuzz.call(name, given))
    given[argument] = pd.DataFrame({"a": given[argument]})
    if (name, argument) in REFUSES_COLUMNS:
        with pytest.raises(ValueError, match=rf"\b{argument}\b.*\b1\)") as error:
            fuzz.call(name, given)
        assert fuzz.one_sentence(str(error.value))
        return
    found = leaves(fuzz.call(name, given))
    assert all(np.array_equal(a, np.reshape(b, a.shape), equal_nan=True) for a, b in zip(expected, found, strict=True))


def test_one_target_s_scores_may_be_a_column():
    scores, member = np.arange(8) / 8, np.arange(8) % 3 > 0
    report = samlib.evaluate(scores, member)
    for a, b in ((scores[:, None], member), (scores, member[:, None]), (scores[:, None], pd.DataFrame({"m": member}))):
        assert samlib.evaluate(a, b) == report


RATES = {
    "a number": (0.25, (0.25,)),
    "numpy's": (np.float64(0.25), (0.25,)),
    "a float32 means what it says": (np.float32(0.1), (0.1,)),
    "float32s": (np.float32([0.1, 0.01]), (0.1, 0.01)),
    "a list": ([0.25, 0.5], (0.25, 0.5)),
    "an array": (np.array([0.25, 0.5]), (0.25, 0.5)),
    "a Series": (pd.Series([0.25, 0.5], index=[5, 7]), (0.25, 0.5)),
    "a nullable one": (pd.Series([0.25, 0.5], dtype="Float64"), (0.25, 0.5)),
    "a tensor": (torch.tensor([0.25, 0.5]), (0.25, 0.5)),
    "a tensor's number": (torch.tensor(0.25), (0.25,)),
    "Decimal": ([Decimal("0.25")], (0.25,)),
    "xarray": (xr.DataArray([0.25]), (0.25,)),
    "none": ((), ()),
}


@pytest.mark.parametrize("which", RATES)
def test_rates_in_any_form(which):
    given, rates = RATES[which]
    scores, member = np.arange(32) / 8, np.arange(32) % 3 > 0
    report = samlib.evaluate(scores, member, fpr=given)
    assert report == samlib.evaluate(scores, member, fpr=rates)
    assert tuple(report.tpr_at_fpr) == rates
    assert all(type(rate) is float for rate in report.tpr_at_fpr)
    many, both = np.stack([scores, scores[::-1]]), np.stack([member, member])
    assert tuple(samlib.compare(many, -many, both, fpr=given).tpr_at_fpr) == rates
    if len(rates) == 1 and np.ndim(given) == 0:
        assert evaluation.tpr_at(scores, member, given) == report.tpr_at_fpr[rates[0]].value
        evaluation.vulnerability(many, both, fpr=given)


NO_RATES = [
    *(0, 1, 0.0, -0.1, 1.5, np.nan, np.inf, [0.1, 1], [[0.1, 0.2]], "0.1", ["0.1"], None, {0.1}, object(), [None], 1j),
    [[1], [1, 2]],
]


@pytest.mark.parametrize("rate", NO_RATES, ids=lambda rate: type(rate).__name__)
def test_what_is_no_rate_is_one_sentence(rate):
    many = np.arange(32).reshape(2, 16) / 8
    member = np.arange(32).reshape(2, 16) % 3 > 0
    calls = {
        "fpr": [
            lambda: samlib.evaluate(many, member, fpr=rate),
            lambda: samlib.compare(many, many, member, fpr=rate),
            lambda: evaluation.tpr_at(many, member, rate),
            lambda: evaluation.vulnerability(many, member, fpr=rate),
            lambda: evaluation.tpr_terms(many, member, rate),
        ],
        "confidence": [
            lambda: samlib.evaluate(many, member, confidence=rate),
            lambda: evaluation.clopper_pearson([1], [2], confidence=rate),
            lambda: evaluation.epsilon_lower_bound(3, 4, 0, 4, confidence=rate),
        ],
    }
    if rate is not None:  # its default
        points = many.T, many[0]
        calls["alpha"] = [lambda: attacks.quantile_regression(*points, *points, alpha=rate)]
    for name, each in calls.items():
        for call in each:
            with pytest.raises(ValueError, match=rf"\b{name}\b") as error:
                call()
            assert fuzz.one_sentence(str(error.value)), str(error.value)


COUNTS = [
    *(
        (name, argument)
        for name, kinds in fuzz.FUNCTIONS.items()
        for argument, kind in kinds.items()
        if kind == fuzz.COUNT
    ),
]


@pytest.mark.parametrize(("name", "argument"), COUNTS)
def test_counts_are_whole_numbers_of_any_type(name, argument):
    expected = leaves(fuzz.call(name, good(name)))
    for two in (2.0, np.int8(2), np.uint64(2), np.float32(2), np.array(2), torch.tensor(2.0).bfloat16(), Decimal(2)):
        found = leaves(fuzz.call(name, good(name) | {argument: two}))
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(expected, found, strict=True)), repr(two)
    for bad in (-1, 2.5, np.nan, np.inf, 10**101, "2", None, [2], [1, 2], 2j, object(), {2}, np.ones((2, 2))):
        with pytest.raises(ValueError, match=rf"\b{argument}\b") as error:
            fuzz.call(name, good(name) | {argument: bad})
        assert fuzz.one_sentence(str(error.value)), str(error.value)


@pytest.mark.parametrize(
    "seed", [-1, 0.5, "a", [0.5], object(), {1}, np.full((40, 40), 0.5)], ids=lambda v: type(v).__name__
)
def test_what_is_no_seed_is_one_sentence(seed):
    scores = np.arange(32) / 8
    with pytest.raises(ValueError, match="^seed ") as error:
        attacks.quantile_regression(scores[:, None], scores, scores[:, None], scores, seed=seed)
    assert fuzz.one_sentence(str(error.value)), str(error.value)


def test_labels_that_no_int64_holds_are_refused_and_the_largest_is_kept():
    for labels in ([2**63], np.array([2**64 - 1], np.uint64), [1e99], [float(2**63)]):
        with pytest.raises(ValueError, match=r"labels must lie in 0 to 2\^63 - 1"):
            checks.as_labels("labels", labels)
    assert checks.as_labels("labels", np.array([2**63 - 1], np.uint64))[0] == 2**63 - 1


def test_a_float16_or_float32_beyond_what_it_holds_is_infinite():
    for dtype in (np.float16, np.float32, np.float64):
        with pytest.raises(ValueError, match=r"^x holds 1 infinite value\(s\)\.$"):
            checks.as_array("x", np.array([1, np.inf], dtype))
    with pytest.raises(ValueError, match=r"^x holds 2 value\(s\) beyond 1e\+100\.$"):
        checks.as_array("x", [1e101, -1e200, 1])


def test_counts_of_small_integer_types_do_not_wrap():
    expected = evaluation.clopper_pearson([0, 100], [127, 127])
    assert np.array_equal(evaluation.clopper_pearson(np.int8([0, 100]), np.int8([127, 127])), expected)
    assert np.array_equal(evaluation.clopper_pearson(np.uint8([0, 100]), np.uint8([127, 127])), expected)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: samlib.run({"dataset": "digits"}), "experiment must be an Experiment, not {'dataset': 'digits'}."),
        (
            lambda: samlib.runs.run_pairs({"a": samlib.Experiment()}),
            "pairs must map keys to pairs of experiments, as .*",
        ),
        (lambda: samlib.load_dataset(5), "name_or_path must be a name or a path, not 5."),
        (lambda: samlib.study({"datasets": 5}), "datasets must be a list of names of data sets."),
        (
            lambda: confirm.make("digits", "results", minutes=-1),
            "minutes must be a finite number above 0, but it is -1.",
        ),
        (
            lambda: export_job(samlib.Experiment(), "job.npz", max_mb=float("inf")),
            "max_mb must be a finite number above 0, .*",
        ),
        (lambda: inference.shares([1, 2, 3], 2, weights=[1, 2]), r"weights must have 3 in their last axis, .*"),
    ],
)
def test_what_a_call_cannot_take_is_one_sentence_that_names_it(call, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        call()


def test_scores_of_true_and_false_have_a_reliability():
    assert inference.reliability([[True, False, True]], [[True, False, False]], 8).value > 0


@pytest.mark.slow
def test_thousands_of_strange_inputs_give_a_result_or_one_sentence():
    """A small form of the benchmark; the functions that fit trees or attack whole runs there are slow, and are left to it."""
    state, slow = random.getstate(), {"audit.attack_scores", "audit.link", "attacks.quantile_regression"}
    for name in fuzz.FUNCTIONS:
        counts = fuzz.fuzz(name, 3 if name in slow else 12)
        assert sum(counts.values()), name
    random.setstate(state)

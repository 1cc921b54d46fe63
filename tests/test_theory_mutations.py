"""Every check of the theory can fail: for each of its claims, some mutation of the library breaks it."""

import inspect
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from samlib import theory
from samlib.paper import descent
from samlib.paper.theory import geometry, model, order, sam, samples
from samlib.theory import Problems

CHECKS = {name.removeprefix("check_"): check for name, check in vars(theory).items() if name.startswith("check_")}
EXPERIMENTS = {
    "experiment1": lambda: theory.experiment1(range(2), range(40)),
    "experiment2": lambda: {rho: theory.e2(rho, seeds=range(2), steps=4_000) for rho in (0.0, 0.03, 0.04)},
}


def scaled(by):
    """The function with its results, or each of them, `by` times as large."""

    def mutate(function):
        def mutant(*args, **kwargs):
            found = function(*args, **kwargs)
            if isinstance(found, tuple):
                values = [by * np.asarray(part) for part in found]
                return type(found)(*values) if hasattr(found, "_fields") else tuple(values)
            return by * found

        return mutant

    return mutate


def moved(by, part=None):
    """The function with its result, or one `part` of it, moved `by`."""

    def mutate(function):
        def mutant(*args, **kwargs):
            found = function(*args, **kwargs)
            if part is None:
                return found + by
            parts = [value + by if k == part else value for k, value in enumerate(found)]
            return type(found)(*parts) if hasattr(found, "_fields") else tuple(parts)

        return mutant

    return mutate


def always(value):
    """A condition that is met, or fails, whatever it is asked of."""
    return lambda function: lambda *args, **kwargs: np.full(np.shape(function(*args, **kwargs)), value)[()]


def said(value):
    return lambda function: lambda *args, **kwargs: value


def called(change):
    """The function at other arguments."""
    return lambda function: lambda *args, **kwargs: function(*change(*args), **kwargs)


def without(k):
    """An order that does not ask for its `k`-th condition: what the condition looks at is the same in any two models."""
    if k == 1:
        return order, "interpolates", said(True)
    names = {2: "s", 3: "A", 4: "M"}
    return order, "alignments", lambda function: lambda w, m: function(w, m)._replace(**{names[k]: 0.0})


def leaking(function):
    """A descent that leaves the row space."""
    return lambda x, y, **options: function(x, y, **options) + 0.01 * np.arange(x.shape[1])


def short(function):
    """A descent that stops before it interpolates."""
    return lambda x, y, *, steps, **options: function(x, y, steps=min(steps, 50), **options)


def downhill(function):
    """SAM that moves down the slope, not up."""
    return lambda gradient, w, rho: function(gradient, w, -rho)


def unmoved(function):
    """SAM that does not move."""
    return lambda gradient, w, rho: gradient(w)


def untrained(rows):
    """E1's table with no SAM in it, and hardly a step of full batches."""
    return {name: row | {"rho": 0.0, "steps": 5 if "full_batch" in row else 6_000} for name, row in rows.items()}


# what each check exercises, and how it is broken: (module, name, mutation)
MUTATIONS = {
    "definitions": [
        (model, "alignments", moved(0.05, 0)), (model, "alignments", moved(0.05, 1)), (model, "alignments", moved(0.05, 2)),
        (model, "error", moved(0.05)), (model, "variance", scaled(1.1)), (model, "advantage", moved(-0.05)),
        (model, "gaps", moved(0.1, 0)), (model, "gaps", moved(0.1, 1)), (model, "best_advantage", scaled(0.9)),
    ],
    "lemma2": [(model, "gaps", moved(1e-6, k)) for k in range(3)] + [(model, "alignments", moved(1e-6, k)) for k in range(2)],
    "proposition2": [(model, "advantage", moved(-0.1)), (model, "error", moved(0.5))],
    "remark1": [(samples, "cap_measure", scaled(1.1))],
    "lemma1": [
        (samples, "cap_bound", scaled(0.1)), (samples, "cap_bound", scaled(2)),
        (samples, "near_orthogonality", scaled(0.5)), (samples, "near_orthogonality", scaled(3)),
    ],
    "proposition1": [(samples, "matched_interpolator", scaled(1.001))],
    "definition2": [without(1), without(2), without(3), without(4), (order, "msa_at_least", said(False))],
    "theorem1": [
        (order, "error_difference", scaled(-1)), (order, "theorem1_condition", always(True)),
        (order, "error_difference", moved(-1)),
    ],
    "theorem2": [
        (order, "advantage_difference", scaled(-1)), (order, "theorem2_condition", always(True)),
        (order, "advantage_difference", moved(-1)),
    ],
    "pair_on_data": [
        (order, "msa_at_least", said(True)), (order, "msa_at_least", said(False)),
        (order, "error_difference", scaled(-1)), (order, "advantage_difference", scaled(-1)),
    ],
    "corollary1": [
        (order, "slopes", moved(0.01, 0)), (order, "slopes", moved(0.01, 1)), (order, "window", moved(0.1, 0)),
        (order, "window", moved(-0.1, 1)),
    ],
    "counterexamples": [
        (order, "error", scaled(-1)), (order, "advantage", scaled(-1)), (order, "slopes", scaled(-1)),
        (order, "error", said(0.0)), (order, "advantage", said(0.0)),
    ],
    "theorem3": [
        # the curvature's sign, a path that is none, an interpolator that is not of least norm, no contraction at all
        (geometry, "contraction", called(lambda x, y, Sigma, etas: (x, y, Sigma, etas[::-1]))),
        (geometry, "min_norm", called(lambda x, y, G: (x, y, np.eye(len(G))))),
        (geometry, "min_norm", lambda function: lambda x, y, G: function(x, y, G) + 1e-3 * np.diag(G)),
        (geometry, "contraction_derivative", scaled(-1)),
    ],
    "warning": [
        (geometry, "min_norm", called(lambda x, y, G: (x, y, np.eye(len(G))))),
        (geometry, "min_norm", lambda function: lambda x, y, G: function(x, y, G) + 1e-3 * np.diag(G)),
    ],
    "path": [
        (geometry, "min_norm", called(lambda x, y, G: (x, y, np.linalg.inv(G)))),
        (geometry, "variance", scaled(0.3)), (geometry, "error", scaled(-1)),
        (geometry, "min_norm", called(lambda x, y, G: (x, y, np.eye(len(G))))),
    ],
    "proposition3": [
        (samples, "reduction", moved(1e-3, 0)), (samples, "group_wishart", scaled(1.3)), (samples, "group_wishart", scaled(1.5)),
        (samples, "reduction", lambda function: lambda V, D, m: (function(V, D, m)[0], np.zeros(2), function(V, D, m)[2])),
    ],
    "proposition4": [
        (samples, "proposition4", moved(1e-3, 0)), (samples, "spread", scaled(1.01)),
        (samples, "proposition4", called(lambda g, m: (1 / g, m))), (samples, "advantage", scaled(1.1)),
        (samples, "proposition4", lambda function: lambda g, m: function(g, m)._replace(A=function(g, m).A + g)),
        (samples, "advantage", scaled(-1)),
    ],
    "theorem4": [
        (geometry, "threshold_advantage", scaled(-1)), (geometry, "threshold_advantage", scaled(1.1)),
    ],
    "theorem5": [
        (geometry, "lr_advantage", moved(1e-5)), (geometry, "lr_advantage_derivative", scaled(-1)),
        (geometry, "lr_roots", scaled(0.5)),
        (geometry, "one_sided_log_tpr", scaled(-1)), (geometry, "one_sided_log_tpr", moved(0.05)),
    ],
    "proposition5": [
        (sam, "linear_descent", leaking), (sam, "linear_descent", short), (sam, "sam_gradient", downhill),
        (sam, "min_norm", scaled(1.01)),
        (sam, "linear_descent", lambda function: lambda x, y, *, rho, **options: function(x, y, rho=0.0, **options)),
    ],
    "experiment1": [(sam, "E1_ROWS", untrained)],
    "experiment2": [(descent, "sam_gradient", downhill), (descent, "sam_gradient", unmoved),
                    (sam, "diagonal_alignments", moved(0.05, 1))],
}  # fmt: skip


def test_every_check_has_mutations_and_stands_on_the_page():
    assert MUTATIONS.keys() == CHECKS.keys()
    page = json.loads((Path(__file__).parents[1] / "notebooks" / "theory_checks.ipynb").read_text())
    code = "".join("".join(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "code")
    for name, check in CHECKS.items():
        assert f"theory.check_{name}" in code
        assert (inspect.getdoc(check) or "").count(":"), f"{name} does not begin with the statement that it checks"


def given(name):
    return EXPERIMENTS[name]() if name in EXPERIMENTS else Problems(seed=0, scale=0.5)


def broken_and_all(name):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mutants
        found = theory.run(CHECKS[name], given(name))
    return {check.claim for check in found if not check.holds}, {check.claim for check in found}


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=slow) if name in EXPERIMENTS else name for name in MUTATIONS]
)
def test_every_claim_holds_and_some_mutation_breaks_it(name, monkeypatch):
    broken, claims = broken_and_all(name)
    assert not broken
    never = set(claims)
    for module, function, mutation in MUTATIONS[name]:
        with monkeypatch.context() as patch:
            patch.setattr(module, function, mutation(getattr(module, function)))
            broken, _ = broken_and_all(name)
        assert broken, f"{mutation} of {function} goes unnoticed"
        never -= broken
    assert not never

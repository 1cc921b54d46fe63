"""The pages of the mixture and of the theory: strict parameters, computed verdicts, figures with their labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from samlib.claims import CONTRADICTED, SUPPORTED, general
from samlib.figures import mixture as page
from samlib.figures import theory as checks
from samlib.mixture import Mixture, PairedDraws, fit, paired_draws
from samlib.theory import verify

from samlib.experiment import ParameterError, check_parameters

MIX = Mixture()


def draws(gain: float, error: float = 0.06, spread: float = 0.01, n: int = 40) -> PairedDraws:
    """Made-up paired draws in which SAM gains `gain` on the atypical cluster."""
    noise = spread * np.random.default_rng(0).standard_normal(n)
    sgd = dict.fromkeys(page.NAMES, np.full(n, error))
    return PairedDraws(sgd, sgd | {"atypical_accuracy": sgd["atypical_accuracy"] + gain + noise})


@pytest.mark.parametrize("model", [page.Parameters, checks.Parameters])
def test_a_pages_parameters_cell_is_its_model_and_its_defaults(model):
    name = "synthetic_mixture" if model is page.Parameters else "theory_checks"
    notebook = json.loads((Path(__file__).parents[1] / "notebooks" / f"{name}.ipynb").read_text())
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    namespace = {}
    exec("".join(cell["source"]), namespace)
    assert check_parameters(namespace, model) == model()
    assert {k for k in namespace if not k.startswith("_")} == set(model.model_fields)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (page.Parameters, {"n_drawz": 3}, "There is no parameter 'n_drawz', only profile, seed, rho"),
        (page.Parameters, {"n_draws": 1}, "Parameter 'n_draws' = 1: input should be greater than or equal to 2"),
        (page.Parameters, {"n_draws": "many"}, "Parameter 'n_draws' = 'many'"),
        (page.Parameters, {"n_atypical": 2.5}, "Parameter 'n_atypical' = 2.5"),
        (page.Parameters, {"rho": 0}, "Parameter 'rho' = 0"),
        (page.Parameters, {"rho": float("nan")}, "Parameter 'rho' = nan"),
        (
            page.Parameters,
            {"profile": "fast"},
            "Parameter 'profile' = 'fast': input should be 'smoke', 'quick' or 'full'",
        ),
        (checks.Parameters, {"runs": 0}, "Parameter 'runs' = 0"),
        (checks.Parameters, {"trials": -1}, "Parameter 'trials' = -1"),
        (checks.Parameters, {"seed": True}, "Parameter 'seed' = True"),
        (checks.Parameters, {"rho": 1.0}, "There is no parameter 'rho', only profile, seed, trials, runs"),
    ],
)
def test_a_parameter_that_a_page_does_not_have_is_refused_in_one_sentence(model, given, message):
    with pytest.raises(ParameterError) as caught:
        check_parameters(given | {"_private": 1, "json": json}, model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_gives_what_is_left_out_and_only_that():
    assert (
        page.Parameters(profile="smoke").n_draws < page.Parameters().n_draws < page.Parameters(profile="full").n_draws
    )
    assert page.Parameters(profile="smoke", n_draws=7).n_draws == 7
    assert checks.Parameters(profile="smoke").scaled(1000) == 100
    assert checks.Parameters(trials=1e-3).scaled(100) == 4


def test_verdicts_follow_the_numbers():
    assert general.verdict_few(draws(0.03)) == "supported"
    assert general.verdict_few(draws(-0.03)) == "contradicted"
    assert general.verdict_few(draws(0.0)) == "no difference that counts"
    assert general.verdict_few(draws(0.01, spread=0.2)) == "inconclusive"
    bayes = general.bayes_error(MIX)
    assert general.verdict_many(draws(0.0, bayes + 0.001), MIX) == "supported"
    assert general.verdict_many(draws(0.0, bayes + 0.02), MIX) == "contradicted"


def test_the_ledger_of_the_mixture_flips_with_the_draws():
    bayes = general.bayes_error(MIX)
    good = general.mixture_ledger(draws(0.03), draws(0.0, bayes + 0.001), MIX)
    bad = general.mixture_ledger(draws(-0.03), draws(0.0, bayes + 0.02), MIX)
    assert good["verdict"].tolist() == [SUPPORTED, SUPPORTED]
    assert bad["verdict"].tolist() == [CONTRADICTED, CONTRADICTED]
    few = good.loc[("C11 few", general.MIXTURE)]
    assert few.low < few.estimate < few.high
    assert few.estimate == pytest.approx(0.03, abs=0.005)
    assert "over 40 draws" in few.statistic


def test_the_ledger_of_the_theorems_counts_what_breaks_them(monkeypatch):
    found = general.theorem_ledger(20_000)
    assert found["verdict"].tolist() == [SUPPORTED, SUPPORTED]
    assert found["estimate"].tolist() == [0, 0]
    assert (found["high"] < general.BROKEN).all()
    whole = verify.alignment.random_pairs

    def swapped(rng, trials):  # the higher alignment called the lower one, which the theorems say is worse
        drawn = whole(rng, trials)
        names = {"M1": "M2", "A1": "A2", "M2": "M1", "A2": "A1"}
        return {name: drawn[names.get(name, name)] for name in drawn}

    monkeypatch.setattr(general, "random_pairs", swapped)
    monkeypatch.setattr(general.order, "theorem1_condition", lambda **drawn: np.arange(20_000) % 2 == 0)
    monkeypatch.setattr(general.order, "theorem2_condition", lambda **drawn: np.arange(20_000) % 2 == 0)
    assert general.theorem_ledger(20_000)["verdict"].tolist() == [CONTRADICTED, CONTRADICTED]


def test_the_mixture_pages_figures_tables_and_words():
    draw = MIX.sample(20, 2, 20)
    fits = {"SGD": fit(*draw[:2]), "SAM": fit(*draw[:2], rho=1.0)}
    results = {n: paired_draws(2, n_atypical=n) for n in (0, 2)}
    rows = [{"group": "rho", "setting": rho} | results[2].summary() for rho in (0.5, 2.0)]
    for figure in (page.density(MIX), page.boundaries(MIX, draw, fits), page.by_count(results), page.failures(rows)):
        assert isinstance(figure, Figure)
        assert all(axes.get_xlabel() for axes in figure.axes)
    assert list(page.comparison(results[2]).index) == list(page.NAMES.values())
    assert list(page.failure_table(rows).index) == [("rho", "0.5"), ("rho", "2")]
    assert "2 atypical samples" in page.describe(MIX, draw, fits)
    said = page.summary(results[2], results[2], rows, MIX)
    assert "Of 2 settings" in said
    assert "nan" not in said
    assert not plt.get_fignums()


def test_the_theory_pages_figures_and_tables():
    etas = (0, 1, 5)
    table = verify.path_table(etas=etas, seeds=range(2))
    runs, _ = verify.experiment2(rhos=(0.0, 0.03), seeds=range(2), steps=400)
    figures = [
        checks.window(), checks.exchange(), checks.contraction(), checks.path(table, etas), checks.sign_flip(),
        checks.follows(runs, range(2)),
    ]  # fmt: skip
    for figure in figures:
        assert isinstance(figure, Figure)
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert list(checks.path_means(table, etas).index) == ["eta = 0", "eta = 1", "eta = 5"]
    assert list(checks.counterexamples().columns[-2:]) == ["change of error", "change of advantage"]
    assert not plt.get_fignums()


def test_the_ledger_names_what_is_violated():
    ledger = verify.Ledger()
    ledger("Lemma 2", verify.lemma2(trials=4))
    assert ledger.verdict() == "**4 of 4 checks of 1 statements hold.**"
    broken = verify.Check("false", "slack", 1, -1.0, 0.0, False)
    assert ledger("Lemma 9", [broken]).loc["false", "holds"] == "NO"
    assert ledger.verdict() == "**4 of 5 checks of 2 statements hold; violated: Lemma 9.**"

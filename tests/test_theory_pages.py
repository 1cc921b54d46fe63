"""The pages of the mixture and of the theory: strict parameters, computed verdicts, figures with their labels."""

import doctest
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy import stats

from samlib.experiment import ParameterError
from samlib.inference import CONTRADICTED, SUPPORTED, VERDICTS
from samlib.mixture import LEVEL, Mixture, PairedDraws, failure_map, fit, paired_draws, population_fit
from samlib.paper import general
from samlib.paper import mixture_page as page
from samlib.paper import theory_page as checks
from samlib.paper.mixture import measures
from samlib.paper.study import check_parameters
from samlib.theory import DataModel, Problems, check_lemma2, e2, g_path, least

MIX = Mixture()
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def draws(gain: float, error: float = 0.06, spread: float = 0.01, n: int = 40) -> PairedDraws:
    """Made-up paired draws in which SAM gains `gain` on the atypical cluster."""
    noise = spread * np.random.default_rng(0).standard_normal(n)
    sgd = dict.fromkeys(page.NAMES, np.full(n, error))
    return PairedDraws(sgd, sgd | {"atypical_accuracy": sgd["atypical_accuracy"] + gain + noise})


@pytest.mark.parametrize("model", [page.Parameters, checks.Parameters])
def test_a_pages_parameters_cell_is_its_model_and_its_defaults(model):
    name = "synthetic_mixture" if model is page.Parameters else "theory_checks"
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
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
            "Parameter 'profile' = 'fast': input should be 'smoke', 'quick', 'standard' or 'paper'",
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
        page.Parameters(profile="smoke").n_draws < page.Parameters().n_draws < page.Parameters(profile="paper").n_draws
    )
    assert page.Parameters(profile="smoke", n_draws=7).n_draws == 7
    assert checks.Parameters(profile="smoke").problems().count(1000) == 100
    assert checks.Parameters(trials=1e-3).problems().count(100) == 4


def test_verdicts_follow_the_numbers():
    assert general.verdict_few(draws(0.03)) == "supported"
    assert general.verdict_few(draws(-0.03)) == "contradicted"
    assert general.verdict_few(draws(0.0)) == "no difference that counts"
    assert general.verdict_few(draws(0.01, spread=0.2)) == "inconclusive"


def many(sgd: float, sam: float, spread: float = 1e-4, n: int = 20) -> PairedDraws:
    """Made-up draws with many samples, whose errors exceed the Bayes rule's by this."""
    noise, bayes = spread * np.random.default_rng(0).standard_normal(n), general.bayes_error(MIX)
    return PairedDraws(*({name: bayes + excess + noise for name in page.NAMES} for excess in (sgd, sam)))


def test_coincide_is_read_from_the_excess_over_bayes_and_from_one_side():
    assert general.YARDSTICK == 0.002
    assert general.verdict_many(many(0.001, 0.001), MIX) == "supported"
    assert general.verdict_many(many(0.0026, 0.0026), MIX) == "contradicted"  # within .005 of Bayes, and equal
    assert general.verdict_many(many(0.0, 0.0), MIX) == "supported"  # an interval about 0 contradicts nothing
    assert general.verdict_many(many(0.0026, 0.001), MIX) == "contradicted"  # both have to
    assert general.verdict_many(many(0.002, 0.002, spread=0.001), MIX) == "inconclusive"


@pytest.mark.slow
def test_the_excess_has_a_t_interval_that_covers_the_larger_of_two():
    draws, covered = many(0.001, 0.003, spread=0.0005), 0
    estimate, low, high = draws.excess(MIX)
    assert estimate == pytest.approx(0.003, abs=5e-4)
    wanted = stats.ttest_1samp(draws.sam["error"] - general.bayes_error(MIX), 0).confidence_interval(1 - LEVEL / 2)
    assert (low, high) == pytest.approx((wanted.low, wanted.high))
    for k in range(400):
        noise = np.random.default_rng((2, k)).standard_normal((2, 12)) * 1e-3
        errors = general.bayes_error(MIX) + 0.002 + noise
        _, low, high = PairedDraws({"error": errors[0]}, {"error": errors[1]}).excess(MIX)
        covered += low <= 0.002 <= high
    assert stats.binom.cdf(covered, 400, 1 - LEVEL) > 1e-3


def test_the_optimizers_exchanged_mirror_the_one_row_and_leave_the_other():
    few, large = draws(0.03), many(0.001, 0.003)
    once = general.mixture_ledger(few, large, MIX)
    other = general.mixture_ledger(*(PairedDraws(one.sam, one.sgd) for one in (few, large)), MIX)
    gain, back = once.loc[("C11 few", general.MIXTURE)], other.loc[("C11 few", general.MIXTURE)]
    assert (gain.estimate, gain.low, gain.high) == pytest.approx((-back.estimate, -back.high, -back.low))
    assert (gain.verdict, back.verdict) == (SUPPORTED, CONTRADICTED)
    assert once.loc[("C11 many", general.MIXTURE)].equals(other.loc[("C11 many", general.MIXTURE)])


def test_the_ledger_of_the_mixture_flips_with_the_draws():
    good = general.mixture_ledger(draws(0.03), many(0.001, 0.001), MIX)
    bad = general.mixture_ledger(draws(-0.03), many(0.02, 0.02), MIX)
    assert good["verdict"].tolist() == [SUPPORTED, SUPPORTED]
    assert bad["verdict"].tolist() == [CONTRADICTED, CONTRADICTED]
    few = good.loc[("C11 few", general.MIXTURE)]
    assert few.low < few.estimate < few.high
    assert few.estimate == pytest.approx(0.03, abs=0.005)
    assert "over 40 draws" in few.statistic
    assert good["level"].tolist() == [0.025, 0.025]  # two rows, whose intervals hold at once


def test_a_theorem_has_no_verdict_but_the_share_of_pairs_in_which_it_fails_without_its_condition(monkeypatch):
    found = general.theorem_ledger(20_000)
    assert found["verdict"].tolist() == [general.PROVED] * 2
    assert general.PROVED not in VERDICTS
    assert found["estimate"].tolist() == pytest.approx([0.5, 0.235], abs=0.015)
    assert (found["low"] < found["estimate"]).all()
    assert (found["estimate"] < found["high"]).all()
    assert found["statistic"].str.contains("; 0 of the").all()
    # a theorem that a pair breaks under its condition is none
    monkeypatch.setattr(general.order, "theorem1_condition", lambda **drawn: np.arange(20_000) % 2 == 0)
    assert general.theorem_ledger(20_000)["verdict"].tolist() == [CONTRADICTED, general.PROVED]


def test_the_mixture_pages_figures_tables_and_words():
    draw = MIX.sample(20, 2, 20)
    fits = {"SGD": fit(*draw[:2]), "SAM": fit(*draw[:2], rho=1.0)}
    results = {n: paired_draws(2, n_atypical=n) for n in (0, 2)}
    rows = pd.DataFrame({("ρ", rho): results[2].summary().unstack() for rho in (0.5, 2.0)}).T
    rows.index.names = ["group", "setting"]
    figures = (page.density(MIX), page.boundaries(MIX, draw, fits), page.by_count(results), page.failures(rows),
               page.excess({50: results[0], 100: results[2]}, MIX, 1.0))  # fmt: skip
    for figure in figures:
        assert isinstance(figure, Figure)
        assert all(axes.get_xlabel() for axes in figure.axes)
    assert list(page.comparison(results[2]).index) == list(page.NAMES.values())
    assert list(page.failure_table(rows).index) == [("ρ", "0.5"), ("ρ", "2")]
    assert "20 typical and 2 atypical red samples and 20 blue ones" in page.describe(MIX, draw, fits)
    said = page.summary(results[2], rows, MIX, 1.0)
    assert f"{population_fit(MIX):.4f} of SGD's excess stays, and {population_fit(MIX, rho=1.0):.4f} of SAM's" in said
    assert "Of 2 rows" in said
    assert "nan" not in said
    assert not plt.get_fignums()


def test_the_reasons_for_a_lost_gain_are_rows_of_the_map(monkeypatch):
    gains = {-0.5: -0.03, 1.5: 0.03}

    def made(n_draws, origin=None, **options):
        t = None if origin is None else round((origin[0] + 1.3) / 3.5, 6)
        return draws(-gains[t] if "l2" in options else gains.get(t, 0.0))

    monkeypatch.setattr(measures, "paired_draws", made)
    rows = failure_map(2)
    names = page.named(rows)
    assert len(set(names)) == len(names)
    assert not [name for name in names if "_" in name or "rho" in name]  # words, not names of the code
    ticks = [text.get_text() for text in page.failures(rows).axes[0].get_yticklabels()]
    assert ticks == names
    first, second, *others = page.causes(rows).splitlines()
    assert len(others) == 2
    for line, sides in ((first, ("SGD", "SAM")), (second, ("SAM", "SGD"))):
        assert [f"{side} better" in part for part, side in zip(line.split("; "), sides, strict=True)] == [True, True]
    assert all(line.count("not settled") == 2 for line in others)
    worse = page.summary(draws(0.0), rows, MIX, 1.0).partition("Worse: ")[2].partition(".\n")[0]
    assert worse == "origin = -0.5; origin, small penalty = 1.5"


def test_notebooks_read_well_where_only_plain_markdown_is_shown():
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert not re.findall(r"```\{|\{[\w:]+\}`", text), path


def test_statements_are_numbered_in_order_and_links_name_them():
    cells = json.loads((NOTEBOOKS / "theory_checks.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = re.findall(r'<a id="([\w-]+)"></a>\*\*(\w+) (\d+) \(', text)
    assert len(found) == 20
    for kind in {kind for _, kind, _ in found}:
        numbers = [int(number) for _, each, number in found if each == kind]
        assert numbers == list(range(1, len(numbers) + 1)), kind  # as the book numbers them
    names = {label: f"{kind} {number}" for label, kind, number in found}
    links = re.findall(r"\[([^]]+)\]\(#([\w-]+)\)", text)
    assert links
    assert all(names[label] == said for said, label in links)


def test_the_theory_pages_figures_and_tables():
    etas = (0, 1, 5)
    table = g_path(DataModel(), etas, range(2))
    runs = {rho: e2(rho, seeds=range(2), steps=400) for rho in (0.0, 0.03)}
    figures = [
        checks.margins(), checks.window(), checks.exchange(), checks.contraction(), checks.path(table, etas), checks.sign_flip(),
        checks.follows(runs, range(2)),
    ]  # fmt: skip
    for figure in figures:
        assert isinstance(figure, Figure)
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert list(checks.path_means(table, etas).index) == ["eta = 0", "eta = 1", "eta = 5"]
    assert list(checks.counterexamples().columns[-2:]) == ["change of error", "change of advantage"]
    assert not plt.get_fignums()


def test_the_ledger_shows_a_checks_source_and_names_what_is_violated():
    ledger = checks.Ledger(lambda: Problems(scale=0.1))
    shown = ledger(check_lemma2).data
    assert ledger.verdict() == "**4 of 4 checks of 1 statements hold.**"
    assert "def check_lemma2(problems):" in shown
    assert shown.startswith("<details><summary>Checked on ")
    assert ": 4 of 4 claims hold</summary>" in shown
    assert shown.index("confidence gap is 1 - M (1 - A)</th>") < shown.index("def check_lemma2")
    assert "equal(&quot;confidence gap is the mean fitted noise&quot;" in shown

    def check_lemma9(given):
        """Lemma 9: false."""
        yield least("false", -given)

    shown = ledger(check_lemma9, 1.0).data
    assert shown.startswith("<details open><summary>Checked on 1 values: 0 of 1 claims hold</summary>")
    assert "<td>NO</td>" in shown
    assert ledger.verdict() == "**4 of 5 checks of 2 statements hold; violated: Lemma 9.**"
    assert ledger.summary().loc["Lemma 2", "checks"] == 4
    assert list(ledger.summary("Lemma 2", "Theorem").index) == ["Lemma 2"]


def test_the_pages_examples_run():
    assert doctest.testmod(checks).failed == doctest.testmod(page).failed == 0

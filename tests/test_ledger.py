"""The ledger: what holds for every claim, present and future, written once; then how rows are decided and said."""

import math
import re
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import stores
from scipy import stats
from simulated import swapped

from samlib.inference import (
    CONTRADICTED,
    INCONCLUSIVE,
    LEVEL,
    NO_DIFFERENCE,
    NOT_MEASURABLE,
    SUPPORTED,
    VERDICTS,
    across,
)
from samlib.paper import claims as ledger
from samlib.paper import distances, frames, membership

MIRROR = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}
EACH_CLAIM = pytest.mark.parametrize("claim", ledger.EVERY, ids=lambda claim: claim.id)
SETS = 40


@pytest.fixture(autouse=True)
def data(monkeypatch):
    """The synthetic pairs' own points, in place of a file by their name."""
    points = stores.points(np.random.default_rng(7), N, N)
    for section in sections():
        if hasattr(section, "dataset_of"):
            monkeypatch.setattr(section, "dataset_of", lambda runs: points)
    monkeypatch.setattr(distances, "dataset_of", lambda runs: points)
    monkeypatch.setattr(membership, "RATE", 0.01)  # at .001 so few non-members give C16 no estimate


MODELS, N = 24, 240


def sections():
    return [import_module(f"samlib.paper.{name}") for name in ledger.SECTIONS]


def measured(pair, *claims) -> pd.DataFrame:
    """The frame of effects of the sections that these claims belong to."""
    found = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*(are left out|no estimate)")
        for section in sections():
            if not claims or section.__name__.rpartition(".")[2] in {claim.section for claim in claims}:
                found |= section.decided(pair)
    return frames.effects(found)


def pair_of(seed=0, **options):
    return stores.pair(np.random.default_rng(seed), MODELS, N, N, carries=4.0, **options)


@pytest.fixture(scope="module")
def base():
    return pair_of()


CACHE: dict = {}


def effects(name, make, claim) -> pd.Series:
    """The row of a claim, each section measured once for each `name`; skips where no section decides it, by its name."""
    if (name, claim.section) not in CACHE:
        CACHE[name, claim.section] = measured(make(), claim)
    frame = CACHE[name, claim.section]
    if claim.id not in frame.index:
        pytest.skip(f"section {claim.section} does not decide {claim.id} from one pair")
    return frame.loc[claim.id]


def verdict(row, claim, level=frames.EACH) -> str:
    (found,) = ledger.decide(pd.DataFrame([row.rename(claim.id)]), [claim], MODELS, level)
    return found["verdict"]


def reliable(row) -> pd.Series:
    """The row as if its scores were certain."""
    return pd.Series(dict(row) | {"reliability": 1.0})


@EACH_CLAIM
def test_exchanging_the_optimizers_mirrors_contrasts_and_leaves_pooled_claims(claim, base):
    row = effects("base", lambda: base, claim)
    other = effects("swapped", lambda: swapped(base), claim)
    assert row[:3].notna().all(), f"{claim.id} must have an effect on this pair"
    sign = -1 if claim.kind == "contrast" else 1
    assert other["estimate"] == pytest.approx(sign * row["estimate"], rel=1e-9, abs=1e-12)
    for name in ("stderr", "df", "by_models", "reliability"):
        assert other[name] == pytest.approx(row[name], rel=1e-7, abs=1e-12), name
    said = verdict(row, claim)
    assert verdict(other, claim) == (MIRROR.get(said, said) if claim.kind == "contrast" else said)


@EACH_CLAIM
def test_the_order_of_models_examples_and_tests_changes_nothing(claim, base):
    row = effects("base", lambda: base, claim)
    for seed in (1, 2):
        other = effects(f"order {seed}", lambda seed=seed: stores.reordered(base, np.random.default_rng(seed)), claim)
        np.testing.assert_allclose(other, row, rtol=1e-9, atol=1e-9)
        assert verdict(other, claim) == verdict(row, claim)


@EACH_CLAIM
def test_the_scale_of_an_optimizer_s_logits_changes_no_verdict(claim, base):
    if not claim.scale:
        pytest.skip(f"{claim.id} is declared to depend on the scale")
    row = effects("base", lambda: base, claim)
    for factor in (0.9, 1.1):
        other = effects(f"scale {factor}", lambda factor=factor: stores.stretched(base, factor), claim)
        assert verdict(other, claim) == verdict(row, claim)
        np.testing.assert_allclose(other["estimate"], row["estimate"], atol=2e-3)


def test_the_scale_would_show_where_it_counts(base):
    """What the claim on outputs said before: the deviation alone, in logits, follows the scale."""
    spread = [runs.logit.values.std(0).mean() for runs in (base.sam, stores.stretched(base, 0.9).sam)]
    assert spread[1] == pytest.approx(0.9 * spread[0], rel=1e-5)


@pytest.mark.slow
@EACH_CLAIM
def test_exchanging_at_random_gives_verdicts_as_rarely_as_chance(claim, base):
    """Nothing differs between optimizers that are exchanged by a coin in each pair: at the level .05 each, at most chance."""
    if claim.kind != "contrast":
        pytest.skip(f"{claim.id} is pooled: both optimizers enter alike")
    row = effects("base", lambda: base, claim)
    assert row[:3].notna().all()
    masks = np.random.default_rng(11).random((SETS, MODELS)) < 0.5
    said, known = [], 0
    for i, mask in enumerate(masks):
        other = effects(f"exchange {i}", lambda mask=mask: swapped(base, mask), claim)
        said.append(verdict(reliable(other), claim, LEVEL))  # the gate would hide it; without an effect, no verdict
        known += bool(other[:3].notna().all())
    assert known > SETS / 2, known
    wrong = sum(each in MIRROR for each in said)
    assert wrong <= stats.binom.ppf(1 - 1e-3, SETS, LEVEL), (wrong, SETS)


@pytest.mark.slow
def test_a_difference_between_the_optimizers_is_seen():
    """So that none of the above holds because nothing is ever decided."""
    pair = pair_of(3, sam={"leak": 3.0, "skill": 1.0, "scale": 1.0})
    found = {claim.id: verdict(row, claim) for claim in ledger.EVERY for row in rows_of(pair, claim)}
    for claim in ("C1", "C2 confidence", "C2 LiRA", "C2 RMIA"):
        assert found[claim] == SUPPORTED, claim


def rows_of(pair, claim):
    if claim.section not in ("membership",):
        return []
    return [effects("different", lambda: pair, claim)]


def test_the_same_runs_do_not_differ(base):
    """An estimate that is certain is a row like any other."""
    same = base._replace(sam=base.sgd)
    found = measured(same)
    for claim in ledger.EVERY:
        if claim.kind == "contrast" and claim.id in found.index and not math.isnan(found.estimate[claim.id]):
            row = found.loc[claim.id]
            assert row["estimate"] == pytest.approx(0, abs=1e-12)
            assert verdict(reliable(row), claim) == NO_DIFFERENCE, claim.id


def claim_of(direction=1, smallest=0.005, **options):
    given = {"id": "x", "text": "A claim.", "statistic": "a statistic", "section": "membership"} | options
    return ledger.Claim(direction=direction, smallest=smallest, **given)


def frame_of(estimate, stderr, df=50.0, by_models=None, reliability=1.0):
    values = [estimate, stderr, df, stderr**2 if by_models is None else by_models, reliability]
    return pd.DataFrame([values], ["x"], ["estimate", "stderr", "df", "by_models", "reliability"])


def test_the_table_of_claims_is_whole():
    assert len(ledger.CLAIMS) == frames.FAMILY == 23
    assert pytest.approx(0.05 / 23) == frames.EACH
    assert len({claim.id for claim in ledger.EVERY}) == len(ledger.EVERY)
    for claim in ledger.EVERY:
        assert claim.direction in (-1, 1)
        assert claim.smallest > 0
        assert claim.kind in ("contrast", "pooled")
    assert {claim.id for claim in ledger.EVERY if claim.kind == "pooled"} == {"C8", "C10"}
    assert {claim.id for claim in ledger.EVERY if not claim.scale} >= {"C2 RMIA", "C2 LiRA at equal train loss, 1/2"}


def test_a_row_is_read_from_one_simultaneous_interval():
    (row,) = ledger.decide(frame_of(0.02, 0.004), [claim_of()], 64)
    reach = stats.t.ppf(1 - 0.05 / 23 / 2, 50) * 0.004
    assert (row["low"], row["high"]) == pytest.approx((0.02 - reach, 0.02 + reach))
    assert row["p"] == pytest.approx(2 * stats.t.sf(5, 50))
    assert row["verdict"] == SUPPORTED
    assert math.isnan(row["needed"])
    (row,) = ledger.decide(frame_of(0.01, 0.004), [claim_of()], 64)  # p .016: not at this level
    assert row["verdict"] == INCONCLUSIVE
    quantile = stats.t.ppf(1 - 0.05 / 23 / 2, 50)
    assert row["needed"] == math.ceil(64 * (quantile * 0.004 / 0.01) ** 2)


def test_a_claim_without_a_statistic_is_not_measurable_and_still_counts():
    claims = [claim_of(), claim_of(id="y"), claim_of(id="z")]
    frame = pd.concat([frame_of(0.02, 0.004), frame_of(np.nan, np.nan, np.nan, np.nan).rename({"x": "y"})])
    rows = ledger.decide(frame, claims, 64)
    assert [row["verdict"] for row in rows] == [SUPPORTED, NOT_MEASURABLE, NOT_MEASURABLE]
    assert all(row["level"] == frames.EACH for row in rows)
    assert all(math.isnan(row["estimate"]) for row in rows[1:])


def test_scores_that_are_not_reliable_decide_nothing():
    for reliability, expected in ((0.49, NOT_MEASURABLE), (0.5, SUPPORTED)):
        (row,) = ledger.decide(frame_of(0.5, 0.004, reliability=reliability), [claim_of()], 64)
        assert row["verdict"] == expected
    (row,) = ledger.decide(frame_of(0.5, 0.004, reliability=0.25), [claim_of()], 64)
    assert row["needed"] == pytest.approx(64 * 3)  # Spearman and Brown: .25 / (1 - .25) times 3 is .5 / .5
    assert outlook(row) == "About 190 models of each would make its scores reliable enough."
    (row,) = ledger.decide(frame_of(0.5, 0.004, reliability=0.0), [claim_of()], 64)
    assert outlook(row) == "No known number of models of each would make its scores reliable enough."


def outlook(row, models=128) -> str:
    return ledger.outlook(pd.Series(row | {"models": models}))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (frame_of(0.02, 0.001), ""),
        (frame_of(-0.02, 0.001), ""),
        (frame_of(0.0, 0.001), ""),
        (frame_of(0.01, 0.004), "About 110 models of each would settle it."),
        (
            frame_of(0.01, 0.02, by_models=0.0001),
            "It would take at least 31.3 times as many examples; more models alone do not settle it.",
        ),
        (frame_of(0.3, 2.0), "It would take about 30,000 models of each to settle it, more than can be trained."),
        (
            frame_of(0.00499, 0.0004, by_models=0.0),
            "It is not zero, but may be too small to count. It lies too near the smallest effect that counts: no feasible "
            "number of models or examples settles it.",
        ),
        (frame_of(0.01, 0.004).assign(models=8), "About 14 models of each would settle it."),
        (frame_of(np.nan, np.nan), "These runs are too small to decide it, or their data are not at hand."),
    ],
)
def test_what_would_settle_a_row_is_said_and_no_reason_that_does_not_hold(frame, said):
    """A wide interval far from the smallest effect is not "too near to it"."""
    (row,) = ledger.decide(frame, [claim_of()], 64)
    assert outlook(row) == said
    assert outlook(row, models=0) == ("" if row["verdict"] == INCONCLUSIVE else said)


def test_a_row_says_where_its_models_come_from():
    about = {"models": [64, 64], "seconds": 2.0, "machine": ["a", "b"], "experiments": [{"epochs": 9}, {"epochs": 9}]}
    assert ledger.cost(about) == {
        "models": 128, "seconds": 2.0, "machine": "a, b", "source": "9 epochs, live", "confirmatory": False,
    }  # fmt: skip
    other = ledger.cost(about | {"live": False, "fixed": True})
    assert (other["source"], other["confirmatory"]) == ("9 epochs, recorded", True)
    assert not ledger.cost(about | {"live": False})["confirmatory"]


def ledger_frame(**columns):
    index = pd.MultiIndex.from_product([["x"], list(columns)], names=["claim", "dataset"])
    return pd.DataFrame(columns.values(), index, ["estimate", "stderr", "verdict"])


def test_across_data_sets_takes_what_is_measurable_and_says_where_signs_differ():
    found = ledger_frame(
        a=(0.02, 0.004, SUPPORTED), b=(0.03, 0.005, SUPPORTED), c=(9.0, 0.1, NOT_MEASURABLE), d=(np.nan, np.nan, NOT_MEASURABLE),
        e=(-0.5, 0.01, CONTRADICTED),
    )  # fmt: skip
    line = ledger.across_datasets(found, ["a", "b", "c", "d"]).loc["x"]
    assert list(line[:5]) == pytest.approx(list(across([0.02, 0.03], [0.004, 0.005])))
    assert (line["datasets"], line["agree"]) == (2, "yes")
    assert ledger.across_datasets(found, ["a", "e"]).loc["x", "agree"] == "no"
    alone = ledger.across_datasets(found, ["a", "c"]).loc["x"]
    assert math.isnan(alone["estimate"])
    assert (alone["datasets"], alone["agree"]) == (1, "too few are decided")


def test_the_ledger_of_frames_has_a_row_for_each_claim_and_data_set():
    about = {"models": 128, "seconds": 1.0, "machine": "m", "source": "live", "confirmatory": False}
    effects = {name: frame_of(0.02, 0.004).rename({"x": "C1"}) for name in ("a", "b")}
    found = ledger.ledger_of(effects, dict.fromkeys(effects, about))
    assert len(found) == 2 * 23
    assert found.loc[("C1", "b"), "verdict"] == SUPPORTED
    assert set(found["verdict"]) <= set(VERDICTS)
    assert found.loc[("C6", "a"), "models"] == 128


def test_the_preregistration_shows_the_table_that_decides():
    """Row for row: what is fixed beforehand is what the code reads."""
    page = (Path(__file__).parents[1] / "book" / "preregistration.md").read_text()
    first = page[: page.index("- **A contrast**")]
    rows = [line.strip("| ").split(" | ") for line in first.splitlines() if re.match(r"\| C\d", line)]
    expected = [
        [
            c.id,
            c.statistic,
            "more" if c.direction > 0 else "less",
            f"{c.smallest:g}",
            c.kind,
            "yes" if c.scale else "no",
        ]
        for c in ledger.EVERY
    ]
    assert rows == expected
    assert f".05/{frames.FAMILY}" in page

"""Verdict cards and the first page's findings: what they show is what the ledger holds, whichever way it falls."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from samlib.inference import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, NOT_MEASURABLE, SUPPORTED, VERDICTS
from samlib.paper import cards, claims, findings
from samlib.paper.explore.page import STYLE

ABOUT = {"models": 128, "seconds": 1.0, "machine": "m", "source": "live", "confirmatory": False}
IDS = [claim.id for claim in claims.CLAIMS]


def ledger_of(**columns) -> pd.DataFrame:
    """A ledger of data sets, each a mapping from a claim to (estimate, stderr) or (estimate, stderr, reliability)."""
    frames = {}
    for dataset, given in columns.items():
        rows = {claim: [e, s, 50.0, s**2, *(rest or [1.0])] for claim, (e, s, *rest) in given.items()}
        frames[dataset] = pd.DataFrame.from_dict(
            rows, orient="index", columns=["estimate", "stderr", "df", "by_models", "reliability"]
        )
    return claims.ledger_of(frames, dict.fromkeys(frames, ABOUT))


def only(ledger, *wanted):
    return ledger[ledger.index.get_level_values("claim").isin(wanted)]


def tree_of(shown) -> ET.Element:
    return ET.fromstring(f"<div>{shown._repr_html_()}</div>")


def words(html: str) -> str:
    """What a reader sees where neither style sheets nor pictures are shown."""
    return " ".join(re.sub(r"<[^>]+>", "", re.sub(r"<svg.*?</svg>", "", html)).split())


def test_the_claim_and_its_verdict_are_two_things():
    """ "Contradicted. SAM's outputs vary less" reads backwards."""
    ledger = only(ledger_of(location30={"C15": (0.5, 0.01)}, digits={"C15": (-0.5, 0.01)}), "C15")
    shown = cards.cards(ledger)
    for text in (words(shown.html), repr(shown)):
        assert "C15. The paper says: SAM's outputs vary less on unseen examples." in text.replace("&#x27;", "'")
        assert re.search(r"On Location-30: (✕ )?contradicted\b", text)
        assert re.search(r"On Digits: (● )?supported\b", text)
        assert "The paper claims less than zero; effects within 0.01 do not count." in text
    assert "Contradicted" not in shown.data


def test_a_card_shows_the_numbers_of_its_rows_and_what_would_settle_them():
    ledger = only(ledger_of(location30={"C16": (0.01, 0.004)}, digits={"C16": (0.3, 0.01, 0.25)}), "C16")
    shown = cards.cards(ledger)
    for text in (words(shown.html), repr(shown), shown.data):
        for _, row in ledger.iterrows():
            assert (
                f"{row['estimate']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f}); 64 models of each, live, exploratory"
                in text
            )
        assert "its scores have a reliability of 0.250. About 190 models of each would make" in text
        assert "About 110 models of each would settle it." in text
        assert "with a 99.78% interval: TPR of online LiRA" in text
        assert "The paper reports 8.8 → 12.5 % on CIFAR-10." in text
    assert "stands in" not in shown.data
    assert "ASAM stands in SAM's place here." in cards.cards(ledger, name="ASAM").data


def test_claims_without_a_statistic_are_listed_and_make_no_card():
    shown = cards.cards(ledger_of(digits={"C1": (0.1, 0.01)}))
    assert shown.html.count("<article") == 1
    first, *others = re.findall("These runs have no statistic for (.*)", shown.data)
    assert first.startswith("C2 confidence; ")
    assert first.endswith(". These runs are too small to decide it, or their data are not at hand.")
    assert any(each.endswith("3/4. It takes runs of several lengths, which are not here.") for each in others)
    both = cards.cards(only(ledger_of(digits={"C1": (0.1, 0.01)}, location30={}), "C1"))
    assert "On Location-30: **not measurable**. These runs are too small to decide it" in both.data
    assert both.html.count("<svg") == 1
    controls = [claim for claim in claims.EVERY if claim.control]
    control = claims.ledger_of({"digits": pd.DataFrame()}, {"digits": ABOUT}, controls).assign(
        estimate=0.1, low=0, high=1
    )
    assert "Reviewers ask whether this holds: " in cards.cards(control).data


def test_a_rule_of_its_own_stands_in_place_of_the_sign():
    ledger = only(ledger_of(digits={"C1": (0.1, 0.01)}, location30={"C16": (0.1, 0.01)}), "C1", "C16")
    ledger.loc[("C1", "digits"), "rule"] = "They coincide where it is at most 0.002."
    said = cards.cards(ledger[ledger["estimate"].notna()]).data
    assert "SAM - SGD. They coincide where it is at most 0.002." in said
    assert said.count("The paper claims more than zero") == 1


def test_what_a_claim_holds_cannot_break_a_page():
    ledger = only(ledger_of(digits={"C1": (0.1, 0.01)}), "C1").assign(text="a < b & c", statistic="<script>x</script>")
    ledger = ledger.rename(index={"digits": "<b>mine.npz"})
    html = cards.cards(ledger).html
    assert "<script" not in html
    assert "On &lt;b&gt;mine.npz:" in html
    ET.fromstring(html)


@pytest.mark.parametrize(
    ("estimate", "stderr", "reliability", "said", "shape"),
    [
        (0.02, 0.001, 1, SUPPORTED, "circle"),
        (-0.02, 0.001, 1, CONTRADICTED, "path"),
        (0.0, 0.0005, 1, NO_DIFFERENCE, "path"),
        (0.01, 0.01, 1, INCONCLUSIVE, "circle"),
        (0.02, 0.001, 0.1, NOT_MEASURABLE, "path"),
    ],
)
def test_a_strip_draws_the_interval_the_band_and_zero_to_scale(estimate, stderr, reliability, said, shape):
    ledger = only(ledger_of(digits={"C16": (estimate, stderr, reliability)}), "C16")
    row = ledger.iloc[0]
    assert row["verdict"] == said
    (svg,) = tree_of(cards.cards(ledger)).iter("svg")
    assert svg.get("role") == "img"
    assert svg.find("title").text == f"{estimate:+.4f}, {said}"
    assert f"{row['low']:+.4f} to {row['high']:+.4f}" in svg.find("desc").text
    band, _, _, interval, *_ = (path.get("d") for path in svg.findall("path"))
    middle = cards.WIDE / 2
    left, width = map(float, re.match(r"M(\S+) 2h(\S+?)v", band).groups())
    start, stop = map(float, re.match(r"M(\S+) \S+H(\S+)$", interval).groups())
    at = float(re.search(r"translate\((\S+) ", svg.find("g").get("transform")).group(1))
    unit = width / 2 / 0.005  # the smallest effect of this claim
    assert left == pytest.approx(middle - width / 2, abs=0.11)
    for x, value in ((at, estimate), (start, row["low"]), (stop, row["high"])):
        assert x == pytest.approx(middle + value * unit, abs=0.2 + abs(value) * 0.06 / 0.005)
    assert next(iter(svg.find("g"))).tag == shape


def test_strips_of_a_card_share_a_scale_and_one_that_is_far_wider_is_cut():
    estimates = dict(zip("abcd", (0.01, 0.012, -0.011, 5.0), strict=True))
    ledger = only(ledger_of(**{name: {"C16": (value, value / 10)} for name, value in estimates.items()}), "C16")
    strips = list(tree_of(cards.cards(ledger)).iter("svg"))
    widths = {re.match(r"M(\S+) ", svg.find("path").get("d")).group(1) for svg in strips}
    assert len(widths) == 1  # the same band
    assert [len(svg.findall("path")) for svg in strips] == [4, 4, 4, 5]


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a, b) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_verdicts_differ_by_sign_and_read_on_light_and_dark_ground():
    """WCAG 2: 4.5 for text, 3 for what a picture says."""
    looks = [cards.LOOKS[verdict] for verdict in VERDICTS]
    assert len({look["sign"] for look in looks}) == len({look["mark"] for look in looks}) == len(VERDICTS)
    for look in looks:
        assert contrast(look["ink"], look["ground"]) >= 4.5
        assert contrast(look["line"], "white") >= 3
        assert contrast(look["line"], "#14181e") >= 3


MIRROR = {"As the paper says": "Against the paper", "Against the paper": "As the paper says"}


@pytest.mark.parametrize("sign", [1, -1])
def test_the_findings_say_what_the_data_say_whichever_way_they_fall(sign):
    ledger = ledger_of(
        location30={"C1": (sign * 0.1, 0.001), "C2 LiRA": (sign * 0.1, 0.001), "C2 RMIA": (0.0, 0.0001), "C2 confidence": (0, 1),
                    "C3": (-sign * 0.1, 0.001), "C4": (sign * 0.1, 0.001)},
        digits={"C1": (-sign * 0.1, 0.001), "C3": (0.0, 0.0001), "C4": (0.0, 0.0001)},
        subclasses={"C3": (0.1, 0.01, 0.2)},
    )  # fmt: skip
    accuracy, leakage, memorization, source = findings.findings(ledger).data.split("\n\n")
    unknown = "These runs cannot say whether SAM gains most on test points that few training examples carry"
    assert source == (
        f"**Where the gain lies.** {unknown} (low influence entropy): Location-30, Digits and Subclasses (generated)."
    )
    noisy = ledger_of(digits={"C1": (0.1, 0.001), "C9": (0.1, 0.001, 0.2)})  # its estimate is not worth a number
    assert findings.findings(noisy).data.endswith("(low influence entropy): Digits.")
    better, worse = (
        ("Location-30 (+0.1000)", "Digits (-0.1000)") if sign > 0 else ("Digits (+0.1000)", "Location-30 (-0.1000)")
    )
    assert accuracy == (
        f"**Accuracy.** As the paper says, SAM tests better than SGD on {better}. Against the paper, SAM tests worse than SGD on "
        f"{worse}. These runs cannot say whether SAM tests better than SGD: Subclasses (generated)."
    )
    lead = "As the paper says, SAM is easier" if sign > 0 else "Against the paper, SAM is harder"
    one = "as the paper says" if sign > 0 else "against it"
    assert leakage == (
        f"**Leakage.** 12 comparisons on 3 data sets: 9 not measurable, 1 {one}, 1 with no difference that counts "
        f"and 1 undecided. {lead} to attack than SGD on Location-30 (LiRA)."
    )
    lead = "As the paper says, SAM memorizes more" if sign > 0 else "Against the paper, SAM memorizes less"
    counts = f"6 comparisons on 3 data sets: 2 {one}, 2 with no difference that counts and 2 not measurable."
    assert memorization == f"**Memorization.** {counts} {lead} than SGD on Location-30."
    assert "ASAM tests better" in findings.findings(ledger, "ASAM").data


def test_the_surprise_needs_both_on_one_data_set():
    up, down = (0.1, 0.001), (-0.1, 0.001)
    apart = ledger_of(a={"C1": up, "C2 LiRA": down}, b={"C1": down, "C2 LiRA": up, "C2 RMIA": up})
    assert findings.surprise(apart).data.endswith(
        "both by enough to count, on none of 2 data sets. By the "
        "members found while one non-member in a thousand is accused, it does both on none.*"
    )
    both = ledger_of(a={"C1": up, "C2 LiRA": up, "C2 RMIA": up}, b={"C1": up, "C2 LiRA": down, "C16": up})
    said = findings.surprise(both).data
    assert "on a (LiRA, RMIA), out of 2 data sets." in said
    made = findings.surprise(ledger_of(a={"C1": up, "C2 LiRA": up}, subclasses={"C1": up})).data
    assert "on a (LiRA), out of 2 data sets, 1 of them generated." in made
    assert said.endswith("it does both on b.*")


def test_exploratory_runs_do_not_count_where_there_are_confirmatory_ones():
    up = {"C1": (0.1, 0.001), "C2 LiRA": (0.1, 0.001)}
    ledger = ledger_of(digits=up, cifar100=up)
    assert "on Digits (+0.1000) and CIFAR-100 (+0.1000)." in findings.findings(ledger).data
    ledger["confirmatory"] = ledger.index.get_level_values("dataset") == "digits"
    said = findings.findings(ledger).data
    assert "on Digits (+0.1000).\n" in said
    assert "*Not counted, because exploratory: CIFAR-100." in said
    assert "both by enough to count, on Digits (LiRA), out of 1 data sets." in findings.surprise(ledger).data
    assert "Digits" in said.split("**Memorization.**")[0]
    ledger["confirmatory"] = True
    assert "Not counted" not in findings.findings(ledger).data


def test_what_a_run_was_not_fixed_for_is_not_listed_as_not_measurable():
    ledger = ledger_of(digits={"C1": (0.1, 0.001), "C3": (0.1, 0.01, 0.2)}, cifar100={"C1": (0.1, 0.001)})
    assert "\n\n**Memorization.** 4 comparisons on 2 data sets: 4 not measurable.\n\n" in findings.findings(ledger).data
    ledger["confirmatory"] = True
    accuracy, memorization = findings.findings(ledger).data.split("\n\n")  # what nothing was asked of is left out
    assert "CIFAR-100" in accuracy
    assert memorization == "**Memorization.** 1 comparison on 1 data set: 1 not measurable."


def test_the_picture_draws_the_ledgers_intervals_and_shades_where_the_surprise_lies():
    given = {
        name: {claim: (0.01 * (i + 1) * sign, 0.002) for i, claim in enumerate((findings.ACCURACY, *findings.ATTACKS))}
        for name, sign in (("location30", 1), ("digits", -1))
    }
    ledger = ledger_of(**given)
    ledger.loc[("C2 RMIA", "digits"), ["estimate", "low", "high"]] = math.nan
    (ax,) = findings.answer(ledger).axes
    drawn = [
        segment for lines in ax.collections if isinstance(lines, LineCollection) for segment in lines.get_segments()
    ]
    for dataset, claim in itertools.product(given, findings.ATTACKS):
        x, y = ledger.loc[(findings.ACCURACY, dataset)], ledger.loc[(claim, dataset)]
        across = [[x["low"], y["estimate"]], [x["high"], y["estimate"]]]
        up = [[x["estimate"], y["low"]], [x["estimate"], y["high"]]]
        there = [
            any(np.shape(line) == (2, 2) and np.allclose(line, wanted) for line in drawn) for wanted in (across, up)
        ]
        assert there == [not math.isnan(y["estimate"])] * 2, (dataset, claim)
    assert ax.get_xlim()[1] > max(ledger.loc["C1", "high"])
    (corner,) = (each for each in ax.collections if isinstance(each, PolyCollection))
    low = corner.get_paths()[0].vertices.min(0)
    assert low == pytest.approx([0.002, 0.005])
    said = [text.get_text() for legend in ax.figure.legends for text in legend.get_texts()]
    assert said == ["Location-30", "Digits", "confidence", "LiRA", "RMIA"]


def test_the_scale_is_counted_from_what_was_trained():
    fields = {"dataset": "digits", "image_size": None, "model": "mlp", "hidden": [8], "norm": "batch", "pool": 100,
              "subset_fraction": 0.5}  # fmt: skip
    said = findings.scale({"digits, recorded": {"experiments": [fields, fields], "models": [3, 3]}}).data
    weights = 64 * 8 + 8 + 8 * 10 + 10
    assert f"Digits: pictures of digits, 8 by 8; 3 + 3 models, mlp of {weights} weights, 50 examples each" in said
    gone = {"experiments": [fields | {"dataset": "gone.npz"}] * 2, "models": [3, 3]}
    assert findings.scale({"gone.npz": gone}).data.endswith("gone.npz: 3 + 3 models, mlp")


def test_a_card_names_the_data_sets_without_a_statistic_together():
    ledger = only(ledger_of(location30={}, digits={"C6": (0.1, 0.01)}, subclasses={}), "C6")
    shown = cards.cards(ledger)
    assert shown.html.count("<li>") == 2
    said = "On Location-30 and Subclasses (generated): **not measurable**. These runs are too small to decide it"
    assert said in shown.data


def test_the_table_holds_every_verdict_of_the_ledger_and_leads_to_its_card():
    given = {
        "location30": {"C1": (0.1, 0.001), "C16": (0.01, 0.01)},
        "digits": {"C1": (-0.1, 0.001), "C3": (0.1, 0.01, 0.2)},
    }
    ledger = ledger_of(**given)
    shown = cards.glance(ledger)
    head, *rows = tree_of(shown).iter("tr")
    assert ["".join(cell.itertext()) for cell in head] == [
        "The paper says",
        "Location-3064 + 64, live",
        "Digits64 + 64, live",
    ]
    assert len(rows) == len(IDS)
    for claim, row in zip(IDS, rows, strict=True):
        assert row.find("th/b").text == claim
        verdicts = [cell.find("span").get("aria-label") for cell in row.findall("td")]
        assert verdicts == ledger.loc[claim, "verdict"].to_list()
        strips = [cell.find("svg") is not None for cell in row.findall("td")]
        assert strips == ledger.loc[claim, "estimate"].notna().to_list()
    anchors = {card.get("id") for card in tree_of(cards.cards(ledger)).iter("article")}
    assert {link.get("href") for row in rows for link in row.findall("th/a")} == {
        f"ledger.html#{name}" for name in anchors
    }
    assert "| **C1.** SAM has lower test error than SGD. | supported | contradicted |" in shown.data
    texts = ["".join(row.find("th").itertext()) for row in rows]
    assert sum("at equal train loss." in text for text in texts) == 3  # once for each attack
    assert "with ASAM in SAM's place" in cards.glance(ledger, "ASAM").data


def test_a_row_without_runs_of_several_lengths_asks_for_them():
    claim = "C2 LiRA at equal train loss, 1/2"
    ledger = only(ledger_of(location30={}, digits={claim: (0.01, 0.001)}), claim)
    said = words(cards.cards(ledger).html)
    assert "On Location-30: △ not measurable It takes runs of several lengths" in said
    assert "too small" not in said


def test_cards_share_no_style_with_the_explorers_of_the_same_page():
    """One name in both gave a card's numbers the place of an explorer's table, and its strip no room."""
    of_cards = set(re.findall(r"samlib-[a-z]+", Path(cards.__file__).read_text()))
    assert "samlib-card" in of_cards
    assert not of_cards & set(re.findall(r"\.(samlib-[a-z]+)", STYLE))


def test_a_ledger_without_sections_or_with_a_row_missing_still_speaks():
    ledger = ledger_of(digits={"C1": (0.1, 0.01)}, location30={"C1": (0.1, 0.01)})
    assert cards.cards(ledger.drop(columns="section")).html.count("<article") == 1
    said = findings.surprise(ledger.drop(index=[("C16", "digits")])).data
    assert said == findings.surprise(ledger).data
    one = ledger.xs("digits", level="dataset", drop_level=False).drop(index=[("C16", "digits")])
    assert (
        "out of 1 data sets" in findings.surprise(one).data or "on none of 1 data sets" in findings.surprise(one).data
    )

"""The threshold attacker: its numbers against the scores themselves, and its page against Python."""

import numpy as np
import pytest
import stores
import traitlets

from samlib.evaluation import roc
from samlib.paper import membership
from samlib.widgets import ThresholdExplorer, write_page


@pytest.fixture(scope="module")
def pair():
    return stores.pair(np.random.default_rng(0), 24, 300, 200)


@pytest.fixture(scope="module")
def logits(pair):
    return membership._logits(pair)


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.5, 0.99, 1.0])
def test_the_numbers_are_those_of_the_pooled_roc_curve(pair, logits, fpr):
    """Linear between the edges of bins, so near to the curve; exact where everybody or nobody is accused."""
    frame = ThresholdExplorer(logits, fpr=fpr).frame()
    for title, runs in (("SGD", pair.sgd), ("SAM", pair.sam)):
        rates, hits = roc(runs.logit.values.ravel(), runs.member.values.ravel())
        assert frame.loc["accused", title] == pytest.approx(fpr, abs=1e-12)
        if fpr:  # at 0 the curve is upright, and the bins see its foot
            assert frame.loc["found", title] == pytest.approx(np.interp(fpr, rates, hits), abs=0.01)
    if fpr in (0, 1):
        assert frame.loc["found"].tolist() == pytest.approx([fpr, fpr], abs=1e-12)


def test_stretching_an_optimizers_logits_moves_its_line_alone(logits):
    other = logits.copy()
    inside = other["optimizer"] == "sam"
    other.loc[inside, "count"] = logits.loc[~inside, "count"].to_numpy()
    frame = ThresholdExplorer(other).frame()
    assert (frame["SGD"] == frame["SAM"]).all()


def test_a_bad_setting_is_one_sentence_that_names_it(logits):
    with pytest.raises(TypeError, match="ThresholdExplorer has no setting 'fprr', only fpr, logits"):
        ThresholdExplorer(logits, fprr=0.1)
    with pytest.raises(traitlets.TraitError, match="'fpr'"):
        ThresholdExplorer(logits, fpr=1.5)


@pytest.fixture
def page(offline, logits, tmp_path):
    explorer = ThresholdExplorer(logits, name="ASAM")
    page = offline(write_page(tmp_path / "threshold.html", [explorer]).as_uri(), 1000, 900)
    page.wait_for_selector(".samlib-threshold .samlib-picture[aria-label]")
    return page


def cells(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.locator(".samlib-threshold .samlib-numbers td").all_inner_texts()


def number(text):
    return float(text.replace("\u2212", "-"))


@pytest.mark.slow
@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.1, 0.37, 0.5, 0.99, 1.0])
def test_the_page_says_what_python_says(page, logits, fpr):
    page.locator("input[name=fpr]").fill(str(fpr))
    frame, found = ThresholdExplorer(logits, fpr=fpr).frame(), cells(page)
    rows = [frame.loc["accused"], frame.loc["found"], frame.loc["found"] - frame.loc["accused"], frame.loc["threshold"]]
    for i, (row, tolerance) in enumerate(zip(rows, (5.1e-4, 5.1e-4, 5.1e-4, 5.1e-3), strict=True)):
        assert list(map(number, found[3 * i : 3 * i + 2])) == pytest.approx(row.tolist(), abs=tolerance)
    gap = frame.loc["found", "SAM"] - frame.loc["found", "SGD"]
    assert number(found[5]) == pytest.approx(gap, abs=5.1e-4)
    assert "ASAM" in page.locator(".samlib-threshold thead").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("line", [0, 1])
def test_a_line_is_dragged_and_the_slider_follows(page, line):
    box = page.locator(".samlib-across").nth(line).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = cells(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 80, y, steps=4)
    page.mouse.up()
    after = cells(page)
    assert number(after[0]) > number(before[0]) + 0.05
    assert page.locator("input[name=fpr]").input_value() == f"{number(after[0]):g}"
    moved = page.locator(".samlib-across").nth(line).bounding_box()
    assert moved["x"] == pytest.approx(box["x"] - 80, abs=6)  # onto the slider's steps
    page.mouse.move(x + 50, y)
    assert cells(page) == after


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 700])
def test_it_fits_narrow_screens(page, width):
    page.set_viewport_size({"width": width, "height": 740})
    cells(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".samlib-frame .samlib-picture").bounding_box()["width"] <= width

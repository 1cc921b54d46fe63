"""The explorer of examples: which are drawn, and that a point shows its own picture."""

import base64
import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from samlib.data import Dataset
from samlib.widgets import ExamplesExplorer, write_page


def examples(n, seed=0):
    rng = np.random.default_rng(seed)
    sgd = rng.uniform(-0.1, 1, n)
    sam = np.clip(sgd + rng.normal(0, 0.2, n), -0.2, 1)
    sgd[n // 2] = np.nan
    columns = {"label": np.arange(n) % 3, "sgd": sgd.astype(np.float32), "sam": sam.astype(np.float32)}
    return pd.DataFrame(columns, pd.Index(np.arange(n), name="example"))


def images(n, channels=()):
    """Flat pictures, each of its own shade."""
    shade = (np.arange(n) * 37 % 251).astype(np.uint8)
    x = np.broadcast_to(shade.reshape(-1, *[1] * (2 + len(channels))), (n, 8, 8, *channels)).copy()
    y = np.arange(n) % 3
    return Dataset(x, y, x[:3], y[:3], ("a", "b_b", "c"), "shades", "0" * 64)


def sheet(explorer):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(explorer.points["sheet"].partition(",")[2]))))


def test_those_that_differ_most_are_drawn_and_a_random_part_of_the_rest():
    whole = examples(4000)
    explorer, again = ExamplesExplorer(whole), ExamplesExplorer(whole)
    frame, gap = explorer.frame(), (whole["sam"] - whole["sgd"]).abs().dropna().sort_values(ascending=False)
    assert len(frame) == len(set(frame.index)) == 1500
    assert frame.index[:500].tolist() == gap.index[:500].tolist()
    assert gap[frame.index].is_monotonic_decreasing
    assert abs(np.searchsorted(-gap.to_numpy(), -gap[frame.index[500:]]).mean() - 2250) < 100  # of all the rest alike
    assert frame.equals(again.frame())
    assert 2000 not in frame.index  # it has no score
    np.testing.assert_allclose(frame[["sgd", "sam"]], whole.loc[frame.index, ["sgd", "sam"]], atol=5.1e-4)
    assert len(ExamplesExplorer(examples(300)).frame()) == 299


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_the_sheet_has_each_picture_at_its_place(channels):
    explorer, data = ExamplesExplorer(examples(300), own := images(300, channels)), own.x_train
    found = sheet(explorer)
    for k, example in enumerate(explorer.frame().index[: explorer.points["pictured"]]):
        tile = found[k // 20 * 8 :, k % 20 * 8 :][:8, :8].astype(int)
        shade = int(data[example].flat[0])
        assert abs(tile - (shade if channels == (3,) else 255 - shade)).max() <= (6 if channels == (3,) else 0)
    assert explorer.frame()["class"].isin(["a", "b b", "c"]).all()


def test_without_images_there_are_labels_and_large_ones_are_made_small():
    small = images(300)
    flat = dataclasses.replace(small, x_train=small.x_train[:, 0])
    explorers = [ExamplesExplorer(examples(300), data) for data in (None, flat)]
    assert [(e.points["pictured"], e.points["sheet"]) for e in explorers] == [(0, "")] * 2
    assert explorers[0].frame()["class"].isin(["0", "1", "2"]).all()
    big = dataclasses.replace(small, x_train=np.repeat(np.repeat(small.x_train, 9, 1), 9, 2))
    assert sheet(ExamplesExplorer(examples(300), big)).shape == (10 * 24, 20 * 24)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "cifar100-coarse"])
def test_a_page_stays_light(public, name):
    assert len(ExamplesExplorer(examples(5000 if name != "digits" else 1437), public(name)).html()) < 200_000


@pytest.fixture(scope="module")
def explorers():
    return ExamplesExplorer(examples(300), images(300), "ASAM"), ExamplesExplorer(examples(60, 1), None, "ASAM")


@pytest.fixture(scope="module")
def address(explorers, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("examples") / "examples.html", explorers).as_uri()


@pytest.fixture
def page(offline, address):
    return offline(address, 1280, 900)


@pytest.fixture
def shown(painted):
    def place_of(page, explorer, k=0):
        """The place among the examples of the one that explorer k shows; its class and its scores are right."""
        painted(page)
        root = page.locator(".samlib-explorer").nth(k)
        words, frame = root.locator(".samlib-example p").inner_text(), explorer.frame()
        number = int(words.split(",")[0].removeprefix("Example "))
        row = frame.loc[number]
        assert f"class {row['class']}." in words
        cells = [float(text.replace("\u2212", "-")) for text in root.locator("td").all_inner_texts()]
        assert cells == pytest.approx([row["sgd"], row["sam"], row["sam"] - row["sgd"]], abs=1e-6)
        return frame.index.get_loc(number)

    return place_of


@pytest.fixture
def place(painted):
    def point(page, k):
        """Where point k of the first explorer lies, by the ring around it once it is chosen."""
        painted(page)
        page.locator("input").first.fill(str(k + 1))
        painted(page)
        box = page.locator(".samlib-shown").first.bounding_box()
        page.get_by_role("button", name="Start over").first.click()
        painted(page)
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    return point


@pytest.mark.slow
def test_the_keyboard_shows_each_example_with_its_own_picture(page, shown, explorers, address):
    slider = page.locator("input").first
    assert shown(page, explorers[0]) == 0
    for k, key in ((1, "ArrowRight"), (2, "ArrowRight"), (1, "ArrowLeft"), (298, "End"), (297, "ArrowLeft")):
        slider.press(key)
        assert shown(page, explorers[0]) == k
        assert page.locator(".samlib-tile").is_visible() == (k < 200)
    for k in (0, 19, 20, 47, 199):
        slider.fill(str(k + 1))
        assert shown(page, explorers[0]) == k
        pixels = np.asarray(Image.open(io.BytesIO(page.locator(".samlib-tile").screenshot())).convert("L"))[6:-6, 6:-6]
        shade = 255 - int(images(300).x_train[explorers[0].frame().index[k], 0, 0])
        assert abs(pixels.astype(int) - shade).max() <= 1
    assert "class" in page.locator(".samlib-picture").first.get_attribute("aria-label")
    page.goto(f"{address}?#examples.chosen=48&examples2.chosen=1400")
    assert (shown(page, explorers[0]), shown(page, explorers[1], 1)) == (47, 58)
    assert page.locator("output").all_inner_texts() == ["48", "59"]


@pytest.mark.slow
def test_a_pointer_shows_and_a_click_chooses(page, shown, place, explorers):
    x, y = place(page, 5)
    page.mouse.move(x, y)
    assert shown(page, explorers[0]) == 5
    page.mouse.move(5, 5)
    assert shown(page, explorers[0]) == 0  # only looked at
    page.mouse.click(x, y)
    page.mouse.move(5, 5)
    assert shown(page, explorers[0]) == 5
    assert page.locator("input").first.input_value() == "6"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_fits_is_touched_and_axe_finds_no_fault(browser, shown, place, address, explorers, faults, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=True)
    page.goto(address)
    page.touchscreen.tap(*place(page, 7))
    assert shown(page, explorers[0]) == 7
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert shown(page, explorers[1], 1) == 0
    assert page.locator(".samlib-tile").count() == 1  # the other has no pictures, and says so
    assert "not at hand" in page.locator(".samlib-explorer").nth(1).inner_text()
    assert faults(page) == []
    page.close()


@pytest.mark.slow
def test_without_javascript_a_picture_stands_in_its_place(browser, explorers):
    page = browser.new_page(java_script_enabled=False)
    page.set_content(explorers[0].html())
    assert page.locator("noscript img").is_visible()
    page.close()

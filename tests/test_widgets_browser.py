"""The explorers' page in a real browser with no network."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from samlib import widgets
from samlib.mixture import Mixture
from samlib.widgets import MemorizationExplorer, MixtureExplorer, TheoryExplorer, draw, write_page

PARTS = Path(widgets.__file__).parent


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("app") / "explorer.html").as_uri()


@pytest.fixture
def page(offline, app):
    """The page of all explorers."""
    page = offline(app, 1200, 1400)
    page.wait_for_function("document.querySelectorAll('.samlib-picture[aria-label]').length === 3")
    return page


def settled(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page, name):
    """Boundaries (or areas) and numbers of the explorer `name`."""
    settled(page)
    return page.evaluate(
        """(name) => {
          const root = document.querySelector(`.samlib-explorer.samlib-${name}`);
          return {
            picture: root.querySelector(".samlib-picture").innerHTML,
            sgd: root.querySelector(".samlib-picture .samlib-sgd")?.getAttribute("d"),
            sam: root.querySelector(".samlib-picture .samlib-sam")?.getAttribute("d"),
            cells: [...root.querySelectorAll(".samlib-numbers td")].map((cell) => cell.textContent),
            label: root.querySelector(".samlib-picture").getAttribute("aria-label"),
          };
        }""",
        name,
    )


def settings():
    """A grid of rho, degree and count; a class of one point; each slider at each end; random settings: of MixtureExplorer."""
    sliders, rng = MixtureExplorer.sliders, np.random.default_rng(0)
    for rho, degree, n_atypical in itertools.product((0.0, 0.35, 1.0, 4.0), (1, 2, 3, 4), (0, 2, 40)):
        yield {"rho": rho, "degree": degree, "n_atypical": n_atypical}
    yield {"n_typical": 1, "n_atypical": 0}
    yield {"n_blue": 1, "degree": 4, "rho": 4.0}
    for name, slider in sliders.items():
        yield {name: slider.min}
        yield {name: slider.max}
    for _ in range(12):
        steps = {n: rng.integers(round((s.max - s.min) / s.metadata["step"]) + 1) for n, s in sliders.items()}
        yield {
            n: type(s.min)(round(s.min + k * s.metadata["step"], 2))
            for (n, s), k in zip(sliders.items(), steps.values(), strict=True)
        }


@pytest.mark.slow
def test_the_browser_fits_and_measures_as_python_does(browser):
    page = browser.new_page()
    page.add_script_tag(content=(PARTS / "mixture.js").read_text())
    for given in settings():
        explorer = MixtureExplorer(**given)
        found = page.evaluate(
            """(setting) => {
              const { sgd, sam, bayes, sample } = solve(setting);
              const plain = (fit) => ({ ...fit, weights: [...(fit.weights ?? [])] });
              return { SGD: plain(sgd), SAM: plain(sam), Bayes: plain(bayes), x: [...sample.x], y: [...sample.y] };
            }""",
            explorer.setting,
        )
        mixture = Mixture(atypical_mean=(explorer.atypical_x, explorer.atypical_y), atypical_spread=explorer.spread)
        x, y, _ = draw(explorer.n_typical, explorer.n_atypical, explorer.n_blue, explorer.seed, mixture)
        np.testing.assert_allclose(np.reshape(found["x"], (-1, 2)), x, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(found["y"], y)
        for name, predictor in explorer.fits().items():
            scale = max(1, np.abs(predictor.weights).max())
            np.testing.assert_allclose(
                found[name]["weights"], predictor.weights, rtol=0, atol=1e-6 * scale, err_msg=given
            )
        for name, numbers in explorer.frame().items():
            for measure, value in numbers.items():
                assert found[name][measure] == pytest.approx(value, abs=1e-6), (given, name, measure)
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"rho": 4.0, "n_atypical": 40}, {"n_atypical": 0, "seed": 7}, {"rho": 0.0}])
def test_the_browser_memorizes_and_exposes_as_python_does(browser, given):
    page, explorer = browser.new_page(), MemorizationExplorer(**given)
    for part in ("mixture.js", "normal.js", "memory.js"):
        page.add_script_tag(content=(PARTS / part).read_text())
    found = page.evaluate(
        """(setting) => {
          const work = remember(setting);
          let step;
          do step = work.next();
          while (!step.done);
          const of = (fit) => [...fit.memorization].map((known, i) => [known, fit.exposureOf(i)]);
          return { SGD: of(step.value.sgd), SAM: of(step.value.sam) };
        }""",
        explorer.setting,
    )
    frame = explorer.frame()
    for name, values in found.items():
        np.testing.assert_allclose(values, frame.loc[name, ["memorization", "exposure"]], rtol=0, atol=1e-6)
    page.close()


@pytest.mark.slow
def test_the_picture_of_memorization_ends_with_pythons_numbers(page):
    frame = MemorizationExplorer().frame()
    rare = frame[frame["cluster"] == "atypical"].groupby("optimizer")[["memorization", "exposure"]].mean()
    wanted = [f"{rare.loc[name, what]:.3f}" for what in rare for name in ("SGD", "SAM")]
    page.wait_for_function(
        """(wanted) => {
          const cells = [...document.querySelectorAll(".samlib-memory .samlib-numbers td")].map((cell) => cell.textContent);
          return [cells[3], cells[4], cells[12], cells[13]].join() === wanted.join();
        }""",
        arg=wanted,
    )
    assert page.locator(".samlib-memory .samlib-remembered.samlib-rare").count() == 2 * 2 + 1  # and one in the legend


@pytest.mark.slow
def test_a_fingers_drag_does_not_scroll_the_page(page):
    action = "(svg) => getComputedStyle(svg).touchAction"
    assert page.locator(".samlib-frame .samlib-picture").evaluate_all(f"(all) => all.map({action})") == ["none"] * 3


@pytest.mark.slow
def test_the_browser_weighs_the_window_as_python_does(browser):
    page = browser.new_page()
    for part in ("normal.js", "theory.js"):
        page.add_script_tag(content=(PARTS / part).read_text())
    rng, sliders = np.random.default_rng(1), TheoryExplorer.sliders
    ends = [{name: end} for name, slider in sliders.items() for end in (slider.min, slider.max)]
    for given in [{}, *ends, *({n: rng.uniform(s.min, s.max) for n, s in sliders.items()} for _ in range(20))]:
        explorer = TheoryExplorer(**given)
        found = page.evaluate("(setting) => weigh(setting)", explorer.setting)
        for name, value in explorer.frame()["value"].items():
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (given, name)
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "slider"),
    [("mixture", "rho"), ("mixture", "n_atypical"), ("memory", "n_atypical"), ("theory", "kappa"), ("theory", "M")],
)
def test_a_slider_moves_by_keyboard_and_by_pointer(page, name, slider):
    field = page.locator(f".samlib-{name} input[name={slider}]")
    seen = [shown(page, name)]
    field.focus()
    field.press("ArrowRight")
    seen.append(shown(page, name))
    field.press("PageUp")
    seen.append(shown(page, name))
    box = field.bounding_box()
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    seen.append(shown(page, name))
    for before, after in itertools.pairwise(seen):
        assert before["picture"] != after["picture"]
        assert before["cells"] != after["cells"]
        assert before["label"] != after["label"]
    said = float(field.locator("xpath=..").locator("output").inner_text().replace("−", "-"))
    assert said == float(field.input_value())


@pytest.mark.slow
def test_at_rho_0_both_boundaries_are_one_and_the_numbers_agree(page):
    page.locator(".samlib-mixture input[name=rho]").press("Home")
    state = shown(page, "mixture")
    assert state["sgd"] == state["sam"] != ""
    assert state["cells"][0::4] == state["cells"][1::4]
    assert all(float(difference) == 0 for difference in state["cells"][2::4])


@pytest.mark.slow
def test_the_numbers_on_the_page_are_python_s(page):
    page.locator(".samlib-mixture input[name=rho]").fill("2")
    cells = [float(cell.replace("−", "-")) for cell in shown(page, "mixture")["cells"]]
    frame = MixtureExplorer(rho=2).frame()
    frame.insert(2, "SAM - SGD", frame.SAM - frame.SGD)
    np.testing.assert_allclose(np.reshape(cells, (4, 4)), frame, atol=5.1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixture", "theory"])
def test_no_extreme_shows_a_nan(page, name):
    """Each slider at both ends with the others at rest, and forty corners of the whole range."""
    kind = {"mixture": MixtureExplorer, "theory": TheoryExplorer}[name]
    rng, start, sliders = np.random.default_rng(2), kind().setting, kind.sliders
    corners = [start | {n: end} for n, s in sliders.items() for end in (s.min, s.max)]
    corners += [{n: (s.min, s.max)[rng.integers(2)] for n, s in sliders.items()} for _ in range(40)]
    bad = page.evaluate(
        """async ([name, corners]) => {
          const root = document.querySelector(`.samlib-explorer.samlib-${name}`), bad = [];
          const frame = () => new Promise(requestAnimationFrame);
          for (const corner of corners) {
            for (const [trait, value] of Object.entries(corner)) {
              const input = root.querySelector(`input[name=${trait}]`);
              input.value = value;
              input.dispatchEvent(new Event("input"));
            }
            await frame();
            await frame();
            if (/NaN|undefined/.test(root.outerHTML)) bad.push(corner);
          }
          return bad;
        }""",
        [name, corners],
    )
    assert not bad


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "handle", "sliders"),
    [("mixture", ".samlib-handle", ("atypical_x", "atypical_y")), ("theory", ".samlib-point", ("M", "A"))],
)
def test_what_can_be_dragged_takes_its_sliders_along(page, name, handle, sliders):
    values = [page.locator(f".samlib-{name} input[name={slider}]") for slider in sliders]
    before, seen = [float(value.input_value()) for value in values], shown(page, name)
    page.locator(f".samlib-{name} {handle}").scroll_into_view_if_needed()
    box = page.locator(f".samlib-{name} {handle}").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 40, steps=4)
    page.mouse.up()
    after = shown(page, name)
    moved = [float(value.input_value()) for value in values]
    assert moved[0] < before[0]
    assert moved[1] < before[1]
    assert after["cells"] != seen["cells"]
    page.mouse.move(x + 30, y + 30)  # let go: it stays
    assert shown(page, name)["cells"] == after["cells"]


@pytest.mark.slow
def test_two_settings_are_kept_compared_restored_and_removed(page):
    root = page.locator(".samlib-mixture")
    keep, rows = root.get_by_role("button", name="Keep this setting"), root.locator(".samlib-kept tbody")
    first = shown(page, "mixture")
    keep.click()
    root.locator("input[name=rho]").press("End")
    keep.click()
    settled(page)
    assert rows.count() == 2
    assert f"{first['cells'][0]} → {first['cells'][1]}" in rows.first.inner_text()
    assert rows.first.locator("td").all_inner_texts() != rows.last.locator("td").all_inner_texts()
    root.get_by_role("button", name="Restore").first.click()
    assert shown(page, "mixture")["cells"] == first["cells"]
    root.get_by_role("button", name="Remove").last.click()
    settled(page)
    assert rows.count() == 1
    root.locator("input[name=seed]").press("End")
    root.get_by_role("button", name="Start over").click()
    assert shown(page, "mixture")["cells"] == first["cells"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MixtureExplorer, MemorizationExplorer, TheoryExplorer])
def test_the_kernel_s_module_follows_its_model_and_leaves_nothing_behind(browser, kind):
    """As anywidget does it: import the ES module, render a model, change a trait from Python's side, close."""
    page = browser.new_page()
    name = next(iter(kind.sliders))
    found = page.evaluate(
        """async ([source, values, name, value]) => {
          const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
          const heard = new Map(), frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const model = {
            get: (trait) => values[trait], save_changes() {},
            set(trait, to) { values[trait] = to; (heard.get(`change:${trait}`) ?? []).forEach((call) => call()); },
            on: (event, call) => heard.set(event, [...(heard.get(event) ?? []), call]),
            off: (event, call) => heard.set(event, heard.get(event).filter((other) => other !== call)),
          };
          const close = module.default.render({ model, el: document.body });
          await frame();
          const numbers = () => document.querySelector(".samlib-numbers").textContent, before = numbers();
          model.set(name, value);
          await frame();
          const shown = Number(document.querySelector(`input[name=${name}]`).value), changed = numbers() !== before;
          const linked = document.body.textContent.includes("Copy link"); // the address is not this page's
          close();
          return { shown, changed, linked, left: [...heard.values()].flat().length };
        }""",
        [kind._esm, kind().setting | {"kept": []}, name, kind.sliders[name].max],
    )
    assert found == {"shown": kind.sliders[name].max, "changed": True, "linked": False, "left": 0}
    page.close()


@pytest.mark.slow
def test_every_control_has_a_name_and_the_result_is_spoken(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(".samlib-explorer :is(input, button)")]
          .filter((e) => !(e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? e.textContent).trim()
            && !e.textContent.trim()).map((e) => e.outerHTML)"""
    )
    assert not nameless
    kinds = (MixtureExplorer, MemorizationExplorer, TheoryExplorer)
    assert page.locator(".samlib-explorer input").count() == sum(len(kind.sliders) for kind in kinds)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(set(ids)) == len(ids)
    page.locator(".samlib-mixture input[name=rho]").press("ArrowRight")
    label = shown(page, "mixture")["label"]
    assert "Test error: SGD" in label
    page.wait_for_function(
        "(said) => document.querySelector('.samlib-mixture [role=status]').textContent === said", arg=label
    )


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (360, "light"), (360, "dark"), (720, "light")])
def test_it_fits_narrow_screens_in_both_schemes(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    page.get_by_role("button", name="Keep this setting").click()
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """(width) => [...document.querySelectorAll(".samlib-explorer *:not(.samlib-hidden)")]
          .filter((e) => !e.closest("svg") && e.getBoundingClientRect().right > width).map((e) => e.outerHTML.slice(0, 80))""",
        width,
    )
    assert not wide
    luminance = (
        "(e) => getComputedStyle(e).color.match(/[\\d.]+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0) / 765"
    )
    ink = page.locator(".samlib-mixture").evaluate(luminance)
    assert ink < 0.3 if scheme == "light" else ink > 0.7

"""The explorers: their traits in Python, and their page in a real browser with no network."""

from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import traitlets

from samlib import widgets
from samlib.mixture import Mixture, errors
from samlib.widgets import MemorizationExplorer, MixtureExplorer, TheoryExplorer, draw, normals, uniforms

PARTS = Path(widgets.__file__).parent

# ---- Python


def test_settings_are_traits_that_can_be_given_read_and_set():
    explorer = MixtureExplorer(rho=2, n_atypical=0)
    assert (explorer.rho, explorer.n_atypical, explorer.degree) == (2, 0, 2)
    explorer.rho = 0
    assert explorer.setting["rho"] == 0
    assert list(explorer.setting) == list(explorer.sliders)


@pytest.mark.parametrize(
    ("kind", "setting", "error", "message"),
    [
        (MixtureExplorer, {"rhoo": 1}, TypeError, "MixtureExplorer has no setting 'rhoo', only rho, degree"),
        (MixtureExplorer, {"rho": -1}, traitlets.TraitError, "'rho'"),
        (MixtureExplorer, {"n_blue": 0}, traitlets.TraitError, "'n_blue'"),
        (MixtureExplorer, {"n_blue": 2.5}, traitlets.TraitError, "'n_blue'"),
        (MixtureExplorer, {"spread": "wide"}, traitlets.TraitError, "'spread'"),
        (MixtureExplorer, {"rho": float("nan")}, traitlets.TraitError, "'rho' trait must be a finite number, not nan."),
        (MixtureExplorer, {"kept": [{"rho": 1}]}, traitlets.TraitError, "A kept setting must name each of rho, degree"),
        (MixtureExplorer, {"kept": [MixtureExplorer().setting | {"rho": 9}]}, traitlets.TraitError, "'rho'"),
        (TheoryExplorer, {"pi": 0.6}, traitlets.TraitError, "'pi'"),
        (TheoryExplorer, {"kept": []}, TypeError, "only M, A, s, pi, kappa."),
    ],
)
def test_a_bad_setting_is_one_sentence_that_names_it(kind, setting, error, message):
    with pytest.raises(error) as raised:
        kind(**setting)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_draw_repeats_and_one_more_point_moves_no_other():
    few, many = draw(5, 2, 3, seed=4), draw(5, 4, 3, seed=4)
    for first, second in zip(few, draw(5, 2, 3, seed=4), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(few[0][:7], many[0][:7])
    np.testing.assert_array_equal(few[0][7:], many[0][9:])
    assert not np.array_equal(few[0], draw(5, 2, 3, seed=5)[0])


def test_the_generator_is_uniform_and_normal():
    u = np.concatenate([uniforms(seed, stream, 500) for seed in range(40) for stream in range(3)])
    assert 0 < u.min() < u.max() < 1
    counts = np.histogram(u, 20, (0, 1))[0]
    assert ((counts - len(u) / 20) ** 2 / (len(u) / 20)).sum() < 44  # chi-square, 19 degrees of freedom, p 0.001
    z = np.concatenate([normals(seed, 0, 200) for seed in range(200)])
    np.testing.assert_allclose(z.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.03)


def test_the_frame_is_what_the_library_says_of_this_draw():
    explorer = MixtureExplorer(rho=0.5, seed=3)
    x, y, atypical = draw(40, 2, 40, seed=3)
    frame, fits = explorer.frame(), explorer.fits()
    assert list(frame) == ["SGD", "SAM", "Bayes"]
    for name, predictor in fits.items():
        assert frame[name].to_dict() == errors(predictor, Mixture(), x, y, atypical)
    assert frame.loc["disagreement", "Bayes"] == 0
    equal = MixtureExplorer(rho=0).frame()
    assert (equal["SGD"] == equal["SAM"]).all()


def test_the_history_has_a_row_for_each_kept_setting():
    explorer = MixtureExplorer()
    assert explorer.history().empty
    explorer.kept = [explorer.setting, explorer.setting | {"rho": 0.0}]
    history = explorer.history()
    assert history["rho"].tolist() == [1, 0]
    assert history.loc[0, "SAM error"] == explorer.frame().loc["error", "SAM"]


def test_the_widget_carries_a_page_for_where_there_is_no_kernel():
    data, _ = MixtureExplorer(rho=3)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert '"rho": 3' in data["text/html"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MixtureExplorer, MemorizationExplorer, TheoryExplorer])
def test_without_javascript_a_picture_stands_in_the_explorers_place(browser, kind):
    page = browser.new_page(java_script_enabled=False)
    page.set_content(kind().html())
    picture = page.locator("noscript img")
    assert picture.get_attribute("alt") == f"{kind.title}, at its first setting"
    assert picture.is_visible()
    page.close()


@pytest.mark.parametrize(("kind", "trait"), [(MixtureExplorer, "rho"), (TheoryExplorer, "kappa")])
def test_an_explorer_composes_with_ipywidgets(kind, trait):
    explorer, slider = kind(), ipywidgets.FloatSlider(max=4)
    assert isinstance(explorer, ipywidgets.DOMWidget)
    box = ipywidgets.VBox([explorer, slider])
    models = [f"IPY_MODEL_{widget.model_id}" for widget in (explorer, slider)]
    assert box.get_state(["children"])["children"] == models  # by which the page finds the two
    # in the page, without a kernel: a link names both models and the attributes that it keeps equal
    link = ipywidgets.jslink((slider, "value"), (explorer, trait))
    assert link.get_state(["source", "target"]) == {"source": [models[1], "value"], "target": [models[0], trait]}
    assert trait in explorer.keys  # synced, or else the page knows no such attribute
    explorer.set_state({trait: 2.5})  # the page's message, once its link has moved the explorer
    assert getattr(explorer, trait) == 2.5
    # through a kernel: the slider drives the trait, and the trait the slider
    both = ipywidgets.link((slider, "value"), (explorer, trait))
    slider.value = 1.5
    assert getattr(explorer, trait) == 1.5
    setattr(explorer, trait, 3.0)
    assert slider.value == 3.0
    with pytest.raises(traitlets.TraitError, match=trait):  # what the trait refuses, a slider cannot set
        setattr(explorer, trait, -1.0)
    both.unlink()
    link.close()


def test_outside_the_window_one_of_the_two_slopes_has_the_other_sign():
    inside, outside = TheoryExplorer().frame()["value"], TheoryExplorer(kappa=0).frame()["value"]
    assert inside["error_falls"]
    assert inside["advantage_rises"]
    assert inside["error_slope"] < 0 < inside["advantage_slope"]
    assert outside["price"] == -np.inf
    assert not outside["advantage_rises"]
    assert outside["advantage_slope"] < 0


# ---- the browser

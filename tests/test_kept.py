"""The settings that a reader of the explorer keeps to compare."""

import json

import pytest
import traitlets

from samlib.widgets import MixtureExplorer


def test_kept_settings_change_by_assignment_alone_and_each_is_checked():
    explorer = MixtureExplorer()
    good = explorer.setting
    explorer.kept = [good | {"rho": 0}]  # an int, as a page may send it
    assert explorer.kept[0] == good | {"rho": 0.0}
    with pytest.raises(AttributeError, match="append"):
        explorer.kept.append({"rho": 1})
    with pytest.raises(TypeError, match="item assignment"):
        explorer.kept[0]["rho"] = 99
    settings = [
        good | change for change in ({"more": 1}, {"rho": "1"}, {"rho": float("nan")}, {"seed": 1.5}, {"n_blue": 0})
    ]
    for bad in ([{}], [good, {"rho": 1}], *([setting] for setting in settings), good, [1], "abc", None, [None], {1: 2}):
        with pytest.raises(traitlets.TraitError):
            explorer.kept = bad
        with pytest.raises(traitlets.TraitError):
            MixtureExplorer(kept=bad)
        with pytest.raises(traitlets.TraitError):
            explorer.set_state({"kept": bad})  # from the page
    explorer.set_state({"kept": [good, good]})
    assert len(explorer.history()) == 2
    assert explorer.get_state(["kept"])["kept"] == [good, good]
    assert json.dumps(good) in explorer.html()

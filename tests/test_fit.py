"""How far training went, beside the attacks, over all runs of a ledger."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samlib.inference import CONTRADICTED, NO_DIFFERENCE, SUPPORTED
from samlib.paper import findings, fit


def ledger(**columns) -> pd.DataFrame:
    """The same difference for every claim of a column."""
    rows = {
        (claim, column): {"estimate": value, "low": value - 0.01, "high": value + 0.01, "source": "3 epochs, live"}
        for claim in ("C1", *findings.ATTACKS)
        for column, value in columns.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["claim", "dataset"])


def test_a_perfect_order_either_way_and_too_few_runs():
    fits = pd.Series({"a": 0.5, "b": 1.0, "c": 2.0, "d": 4.0})
    falling, rising = (ledger(**dict(zip("abcd", values, strict=True))) for values in ([3, 2, 1, 0], [0, 1, 2, 3]))
    assert fit.order(falling, fits).data.count("-1.00 (4 runs)") == 3
    assert fit.order(rising, fits[::-1]).data.count("+1.00 (4 runs)") == 3
    falling.loc[("C2 RMIA", "a"), "estimate"] = np.nan
    assert fit.order(falling, fits).data.endswith("RMIA: too few runs.")


def test_the_picture_has_each_run_at_its_ratio_and_difference():
    fits = pd.Series({"digits": 0.5, "location30, recorded": 2.0})
    figure = fit.attacks_over_fit(ledger(**{"digits": -0.1, "location30, recorded": 0.2}), fits)
    assert isinstance(figure, Figure)
    assert [ax.get_title() for ax in figure.axes] == ["confidence", "LiRA", "RMIA"]
    for ax in figure.axes:
        points = [
            (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ax.lines if len(line.get_xdata()) == 1
        ]
        assert points == [(0.5, -0.1), (2.0, 0.2)]
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["Digits, 3 epochs, live", "Location-30, 3 epochs, live"]


def test_what_a_smaller_run_decides_otherwise_is_named():
    columns = ["digits", "digits, recorded", "location30"]
    rows = {
        (claim, column): {"verdict": NO_DIFFERENCE, "source": "3 epochs, recorded"}
        for claim in ("C1", "C3")
        for column in columns
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["claim", "dataset"])
    assert fit.turned(table, ["digits", "location30"]).data.endswith("\n- Digits, 3 epochs: none.")
    table.loc[("C3", "digits, recorded"), "verdict"] = CONTRADICTED
    table.loc[("C1", ["digits", "digits, recorded"]), "verdict"] = SUPPORTED
    said = fit.turned(table, ["digits", "location30"]).data
    assert said.endswith("\n- Digits, 3 epochs: C3 contradicted, here no difference that counts.")
    table.loc[("C3", "digits"), "verdict"] = CONTRADICTED
    assert fit.turned(table, ["digits", "location30"]).data.endswith("none.")


def test_runs_of_one_data_set_share_its_colour_and_differ_in_their_mark():
    fits = pd.Series({"digits": 0.5, "digits, recorded": 1.0, "location30": 2.0})
    figure = fit.attacks_over_fit(ledger(**dict.fromkeys(fits.index, 0.1)), fits)
    first, second, other = figure.legends[0].legend_handles
    assert first.get_color() == second.get_color() != other.get_color()
    assert first.get_marker() == other.get_marker() != second.get_marker()

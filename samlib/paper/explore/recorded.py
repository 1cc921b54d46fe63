"""Explorers of what was measured: which examples are memorized, and the attacker who draws one line in the outputs."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from samlib.data import Dataset
from samlib.paper.draw import panels
from samlib.paper.explore.page import Explorer, Finite, slider
from samlib.paper.panels import classes_of
from samlib.paper.style import INK, RED, SAM, SGD, drawn

DRAWN, FIRST = 1500, 500  # points at most; so many of them differ most, the others are a random part of the rest
PICTURED, ACROSS, SIDE = 200, 20, 32  # pictures, those in a row of the sheet that holds them, and their pixels at most


class ExamplesExplorer(Explorer):
    """Look at each example: its memorization by SGD and by another optimizer, and its picture where the data are images.

    The slider goes through the examples, from those that differ most. At most 1,500 are drawn, so that a page stays light.

    Parameters
    ----------
    examples : DataFrame
        The frame "examples" of `samlib.paper.memorization.measure`: label, sgd and sam of each example.
    data : Dataset, optional
        What the examples are. Without it, or where it holds no images, an example shows its class and its number.
    name : str
        Of the optimizer beside SGD, as people write it.
    **setting
        `chosen`, the place of the example that is shown.

    Raises
    ------
    TypeError, traitlets.TraitError
        As for `MixtureExplorer`.

    Examples
    --------
    >>> examples = pd.DataFrame({"label": [0, 1, 1], "sgd": [0.1, 0.5, np.nan], "sam": [0.2, 0.1, np.nan]})
    >>> ExamplesExplorer(examples).frame()["sgd"].to_dict()
    {1: 0.5, 0: 0.1}
    """

    name = "examples"
    chosen = slider(traitlets.Int, 1, 1, DRAWN, 1, "By difference")
    points = traitlets.Dict(help="what is drawn of each example, and the pictures").tag(sync=True)

    def __init__(self, examples: pd.DataFrame, data: Dataset | None = None, name: str = "SAM", **setting):
        known = examples.dropna(subset=["sgd", "sam"])
        order = np.argsort(-(known["sam"] - known["sgd"]).abs().to_numpy(), kind="stable")
        if len(order) > DRAWN:
            rest = np.random.default_rng(0).choice(order[FIRST:], DRAWN - FIRST, replace=False)
            order = order[:FIRST].tolist() + order[np.isin(order, rest)].tolist()
        drawn = known.iloc[order]
        classes, labels = pd.factorize(drawn["label"])
        images = data is not None and (data.x_train.ndim == 3 or data.x_train.shape[3:] in ((1,), (3,)))
        shown = drawn.index[: PICTURED if images else 0]
        super().__init__(
            points={
                "name": name,
                "index": drawn.index.tolist(),
                "class": classes.tolist(),
                "classes": [each.replace("_", " ") for each in classes_of(data, labels)],
                **drawn[["sgd", "sam"]].astype(float).round(3).to_dict("list"),
                "examples": len(known),
                "first": FIRST,
                "pictured": len(shown),
                "across": ACROSS,
                "sheet": _sheet(data.x_train[shown]) if data is not None and len(shown) else "",
            },
            **setting,
        )

    def frame(self) -> pd.DataFrame:
        """The examples that are drawn, in the slider's order: class, sgd and sam, to three digits."""
        points = self.points
        columns = {"class": [points["classes"][k] for k in points["class"]], "sgd": points["sgd"], "sam": points["sam"]}
        return pd.DataFrame(columns, pd.Index(points["index"], name="example"))

    @drawn
    def figure(self) -> Figure:
        """The scatter, drawn by Python, for where there is no JavaScript."""
        figure, ax = plt.subplots(figsize=(5, 4))
        ax.scatter("sgd", "sam", s=6, alpha=0.3, color=INK, lw=0, data=self.frame())
        ax.axline((0, 0), slope=1, color=RED, lw=1)
        ax.set(xlabel="memorization, SGD", ylabel=f"memorization, {self.points['name']}")
        return figure


class ThresholdExplorer(Explorer):
    """Be the attacker: draw a line in the outputs, and call a member whoever lies to its right.

    The slider is the share of others that are accused, so both optimizers are attacked at one cost. Each has its own line,
    since stretching all logits of an optimizer must change nothing. Between the edges of two bins, rates are interpolated.

    Parameters
    ----------
    logits : DataFrame
        The frame "logits" of `samlib.paper.membership.measure`: counts by optimizer, member, and bin (left, right).
    name : str
        Of the optimizer beside SGD, as people write it.
    **setting
        `fpr`, the share of others that are accused.

    Raises
    ------
    TypeError, traitlets.TraitError
        As for `MixtureExplorer`.

    Examples
    --------
    >>> bins = {"left": [0.0, 1.0], "right": [1.0, 2.0]}
    >>> parts = [({True: [1, 3], False: [3, 1]}[inside], who, inside) for who in ("sgd", "sam") for inside in (True, False)]
    >>> logits = pd.concat(pd.DataFrame(bins | {"count": n, "optimizer": who, "member": m}) for n, who, m in parts)
    >>> ThresholdExplorer(logits, fpr=0.25).frame()["SGD"].to_dict()
    {'threshold': 1.0, 'found': 0.75, 'accused': 0.25}
    """

    name = "threshold"
    fpr = slider(Finite, 0.1, 0.0, 1.0, 0.01, "Others accused")
    logits = traitlets.Dict(help="counts of each optimizer's logits").tag(sync=True)

    def __init__(self, logits: pd.DataFrame, name: str = "SAM", **setting):
        counts: dict = {"name": name}
        for who, own in logits.groupby("optimizer"):
            members, others = own[own["member"]], own[~own["member"]]
            counts[who] = {"members": members["count"].tolist(), "others": others["count"].tolist()}
        edges = logits[["left", "right"]].iloc[: len(counts["sgd"]["members"])]
        super().__init__(logits=counts | {"edges": [*edges["left"], edges["right"].iloc[-1]]}, **setting)

    def frame(self) -> pd.DataFrame:
        """Threshold, share of members found and of others accused: a column for each optimizer."""
        edges, columns = self.logits["edges"], {}
        for who, title in (("sgd", "SGD"), ("sam", self.logits["name"])):
            found, accused = self._shares(who)
            # accused never rises along the edges; where it is level, the last edge is the line
            columns[title] = [np.interp(-self.fpr, -accused, each) for each in (edges, found, accused)]
        return pd.DataFrame(columns, index=["threshold", "found", "accused"])

    def _shares(self, who: str) -> list[np.ndarray]:
        """Shares of members and of others to the right of each edge."""
        return [1 - np.r_[0, np.cumsum(counts)] / sum(counts) for counts in self.logits[who].values()]

    @drawn
    def figure(self) -> Figure:
        """The picture at the present setting, drawn by Python, for where there is no JavaScript."""
        figure, (*halves, roc) = panels(3, 2.4)
        frame, edges = self.frame(), self.logits["edges"]
        for ax, title, who, colour in zip(halves, frame, ("sgd", "sam"), (SGD, SAM), strict=True):
            members, others = (np.array(counts) / sum(counts) for counts in self.logits[who].values())
            ax.stairs(members, edges, fill=True, color=colour, alpha=0.5, label="members")
            ax.stairs(others, edges, color=INK, label="others")
            ax.axvline(frame.loc["threshold", title], color=INK, ls="--")
            ax.set(title=title, xlabel="logit of the true class")
            found, accused = self._shares(who)
            roc.plot(accused, found, color=colour, label=title)
            roc.plot(*frame.loc[["accused", "found"], title], "o", color=colour)
        roc.set(title="ROC", xlabel="others accused", ylabel="members found")
        for ax in (halves[1], roc):
            ax.legend(fontsize="small", frameon=True)
        return figure


def _sheet(pictures: np.ndarray) -> str:
    """Pictures (n, height, width), or so with 1 or 3 channels, beside and below each other, as the address of an image."""
    pictures = pictures[..., 0] if pictures.shape[3:] == (1,) else pictures
    pixels = pictures if pictures.dtype == np.uint8 else (255 * np.clip(pictures, 0, 1)).round().astype(np.uint8)
    step = -(-max(pixels.shape[1:3]) // SIDE)
    n, height, width, *colours = (pixels := pixels[:, ::step, ::step]).shape
    sheet = Image.new("RGB" if colours else "L", (ACROSS * width, -(-n // ACROSS) * height))
    for k, each in enumerate(pixels if colours else 255 - pixels):  # grey as in the other figures
        sheet.paste(Image.fromarray(each), (k % ACROSS * width, k // ACROSS * height))
    kind, options = ("JPEG", {"quality": 75}) if colours else ("PNG", {"optimize": True})
    sheet.save(kept := io.BytesIO(), kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(kept.getvalue()).decode()}"

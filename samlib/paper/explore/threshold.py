"""The attacker by one threshold as a widget: recorded logits of members and others, and the ROC point of a line drawn in them."""

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from samlib.paper.draw import panels
from samlib.paper.explore.page import Explorer, Finite, slider
from samlib.paper.style import INK, SAM, SGD, drawn


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

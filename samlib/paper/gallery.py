"""Figure 3: test points of low and of high influence entropy, each with the training examples that influence it most."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from samlib.data import Dataset
from samlib.estimators import top_influences
from samlib.inference import shares
from samlib.paper.distances import between
from samlib.paper.frames import Section
from samlib.paper.panels import classes_of, image, not_shown
from samlib.paper.sets import Models
from samlib.paper.style import INK, RED, WIDTH, drawn

NEAR = 0.25  # of the class's typical distance; nearer examples are called near duplicates
K = 10  # examples shown beside each test point
EACH_END = 3  # test points shown from each end of the entropies


def gallery(models: Models, entropy, strength, dataset: Dataset | None, n_buckets: int = 5) -> pd.DataFrame:
    """The rows of Figure 3: in turn a test point of the first bucket and one of the last, of the same class if there is one.

    Test points with the largest `strength` come first, at most EACH_END of each bucket. Those of the first bucket differ in
    class. entropy (tests,): NaN if there is none. strength (tests,): the influence of the most influential example.

    There is a row for each of a test point's K most influential examples of its class, the strongest first, by all models of
    both optimizers. Columns: row, test, label, bucket, entropy, example, influence, distance (of the example), nearest (the
    distance of the nearest example of the class). Distances are over the typical distance; NaN if the data are not at hand.
    """
    columns = ["row", "test", "label", "bucket", "entropy", "example", "influence", "distance", "nearest"]
    known, label = np.flatnonzero(np.isfinite(entropy)), models.test_label
    bucket, rows = np.zeros(len(entropy), int), list[int]()
    if len(known) >= n_buckets:
        bucket[known] = shares(entropy[known], n_buckets).argmax(0) + 1
    order = known[np.argsort(-strength[known], kind="stable")]
    last = [i for i in order if bucket[i] == n_buckets]
    for i in order[bucket[order] == 1]:
        if label[i] not in label[rows[::2]] and last and len(rows) < 2 * EACH_END:
            other = next((j for j in last if label[j] == label[i]), last[0])
            last.remove(other)
            rows += [i, other]
    if not rows:
        return pd.DataFrame(columns=columns)
    some = np.flatnonzero(models.member.any(0) & ~models.member.all(0))
    correct, member = np.concatenate(models.test_correct)[:, rows], np.concatenate([models.member[:, some]] * 2)
    found, value = top_influences(correct, member, min(K, len(some)), labels=(label[rows], models.label[some]))
    place, rank = np.nonzero(np.isfinite(value))
    test, example = np.array(rows)[place], models.example[some[found[place, rank]]]
    far, nearest = np.full((2, len(test)), np.nan)
    if dataset is not None:
        for z in rows:
            ours, at = np.flatnonzero(dataset.y_train == label[z]), test == z
            away = between(dataset, models.test[[z]], ours)[0]
            away /= np.median(away)
            far[at], nearest[at] = away[np.searchsorted(ours, example[at])], away.min()
    of_test = (each[test] for each in (models.test, label, bucket, entropy))
    values = place, *of_test, example, value[place, rank], far, nearest
    return pd.DataFrame(dict(zip(columns, values, strict=True)))


def figure_3(found: Section, data: Mapping[str, Dataset | None]) -> list:
    """Figure 3 for each data set: pictures if the data are images and at hand, else a table of influences and distances."""
    shown = []
    for dataset, frames in found.items():
        rows, own = frames["gallery"], data[dataset]
        if rows.empty:
            shown.append(not_shown([dataset]))
        elif own is None or own.x_train.ndim == 2:
            shown.append(gallery_table(rows, own).set_caption(found.titles[dataset]))
        else:
            shown.append(influential_images(rows, own, found.titles[dataset]))
    return shown


@drawn
def influential_images(gallery: pd.DataFrame, dataset: Dataset, title: str):
    """Boxed test images, each followed by its most influential training images with their influence.

    A red frame marks a training image that is a near duplicate of the test image (nearer than NEAR times the class's typical
    distance), or equal to it.
    """
    parts = [part for _, part in gallery.groupby("row")]
    figure, axes = plt.subplots(len(parts), K + 1, figsize=(WIDTH, 1.05 * len(parts) + 0.3), squeeze=False)
    for row, part in zip(axes, parts, strict=True):
        first = next(part.itertuples())
        image(row[0], dataset.x_test[first.test], f"{dataset.classes[first.label]}\nbucket {first.bucket}", INK)
        for ax, each in zip(row[1:], part.itertuples(), strict=False):
            flag = "same, " if each.distance == 0 else "near, " if each.distance < NEAR else ""
            image(ax, dataset.x_train[each.example], f"{flag}{each.influence:.2f}", RED if flag else None)
        for ax in row[1 + len(part) :]:
            ax.set_axis_off()
    figure.suptitle(title, x=0, ha="left", fontsize="medium", fontweight="bold")
    return figure


def gallery_table(gallery: pd.DataFrame, dataset: Dataset | None = None):
    """Figure 3 in words: each test point's class and bucket, and its most influential examples with their distances."""
    rows = {}
    for (test, label, bucket), part in gallery.groupby(["test", "label", "bucket"], sort=False):
        influence = part["influence"]
        row = {
            "class": classes_of(dataset, [label])[0],
            "bucket": f"{bucket}",
            "training examples": " ".join(map(str, part["example"])),
            "influence, first to last": f"{influence.iloc[0]:.2f} to {influence.iloc[-1]:.2f}",
        }
        if part["distance"].notna().all():
            row["distances of these (1 = typical of the class)"] = " ".join(f"{d:.2f}" for d in part["distance"])
            row["nearest of its class"] = f"{part['nearest'].iloc[0]:.2f}"
        rows[f"test point {test}"] = row
    return pd.DataFrame.from_dict(rows, orient="index").style

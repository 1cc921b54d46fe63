"""Figure 3: test points of low and of high influence entropy, each with the training examples that influence it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samlib.data import Dataset
from samlib.estimators import top_influences
from samlib.inference import shares
from samlib.paper.distances import between
from samlib.paper.frames import Section
from samlib.paper.panels import classes_of, image, not_shown
from samlib.paper.sets import Models
from samlib.paper.style import INK, RED, WIDTH, dataset_title, drawn

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


def _pictured(data: Mapping[str, Dataset | None]) -> dict[str, Dataset]:
    return {name: own for name, own in data.items() if own is not None and own.x_train.ndim > 2}


@drawn
def figure_3(found: Section, data: Mapping[str, Dataset | None]) -> Figure | Markdown:
    """Boxed test images, each followed by its most influential training images with their influence; of images at hand.

    A red frame marks a training image that is a near duplicate of the test image (nearer than NEAR times the class's typical
    distance), or equal to it.
    """
    images = _pictured(data)
    rows = {name: [part for _, part in found[name]["gallery"].groupby("row")] for name in found if name in images}
    rows = {name: parts for name, parts in rows.items() if parts}
    if not rows:
        return not_shown(found)
    many = [len(parts) for parts in rows.values()]
    figure = plt.figure(figsize=(WIDTH, 0.92 * sum(many) + 0.3 * len(many)))
    below = figure.subfigures(len(many), 1, squeeze=False, height_ratios=many).flat
    for each, (name, parts) in zip(below, rows.items(), strict=True):
        each.suptitle(found.titles[name], x=0, ha="left", fontsize="medium", fontweight="bold")
        for row, part in zip(each.subplots(len(parts), K + 1, squeeze=False), parts, strict=True):
            _gallery_row(row, part, images[name])
    return figure


def _gallery_row(row: Sequence[Axes], part: pd.DataFrame, data: Dataset) -> None:
    first = next(part.itertuples())
    image(row[0], data.x_test[first.test], f"{data.classes[first.label]}\nbucket {first.bucket}", INK)
    for ax, each in zip(row[1:], part.itertuples(), strict=False):
        flag = "same, " if each.distance == 0 else "near, " if each.distance < NEAR else ""
        image(ax, data.x_train[each.example], f"{flag}{each.influence:.2f}", RED if flag else None)
    for ax in row[1 + len(part) :]:
        ax.set_axis_off()


def in_words(found: Section, data: Mapping[str, Dataset | None]):
    """Figure 3 of data sets without pictures: a test point of bucket 1 and one of bucket 5, and their influential examples."""
    images = _pictured(data)
    tables = {
        dataset_title(name): gallery_table(frames["gallery"].query("row < 2"), data[name])
        for name, frames in found.items()
        if len(frames["gallery"]) and name not in images
    }
    return pd.concat(tables).style if tables else Markdown("*The figure has all data sets.*")


def gallery_table(gallery: pd.DataFrame, dataset: Dataset | None = None) -> pd.DataFrame:
    """Each test point's class and bucket, and its most influential examples with their distances."""
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
    return pd.DataFrame.from_dict(rows, orient="index")

"""The trials by which the parameters of the data set `subclasses` were chosen, with SGD alone; prints a table for the book.

python tests/benchmarks/trials_subclasses.py
"""

from itertools import product

import numpy as np
import pandas as pd

from samlib.data.generated import subclasses
from samlib.evaluation import auc_terms
from samlib.experiment import Experiment
from samlib.training import train_group

RECIPE = Experiment(dataset="none", optimizer="sgd", hidden=(256,), epochs=30).model_dump()
GRID = {"every": (20, 10, 5), "c": (0.2, 0.4), "noise": (0.10, 0.12, 0.14, 0.16, 0.18, 0.20)}
MODELS = range(8)


def trial(**parameters) -> dict:
    """Means over models: accuracies, and the AUC of the confidence attack over all examples and over the minority's."""
    data = subclasses(**parameters)
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), data.arrays, strict=True))
    found = train_group(RECIPE, arrays | {"n_classes": len(data.classes)}, MODELS)
    rare, rare_test = (side == 1 for side in data.subclass)
    right, logit, member = found["test_correct"], found["logit"], found["member"]
    return parameters | {
        "train": found["train_accuracy"].mean(),
        "test": right.mean(),
        "majority": right[:, ~rare_test].mean(),
        "minority": right[:, rare_test].mean(),
        "AUC": auc_terms(logit, member).mean(),
        "AUC, minority": auc_terms(logit[:, rare], member[:, rare]).mean(),
    }


def main() -> None:
    rows = [trial(**dict(zip(GRID, values, strict=True))) for values in product(*GRID.values())]
    frame = pd.DataFrame(rows)
    learned = frame["minority"].between(0.3, 0.7) & (frame["train"] >= 0.999) & (frame["majority"] >= 0.95)
    frame["eligible"] = np.where(learned, "yes", "")
    print("| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns))
    for row in frame.itertuples(index=False):
        print("| " + " | ".join(f"{v:.3f}" if i in range(3, 9) else str(v) for i, v in enumerate(row)) + " |")
    print(f"\nChosen: {frame.loc[frame[learned]['AUC'].idxmax(), list(GRID)].to_dict()}")


if __name__ == "__main__":
    main()

"""Runs that no model made, whose effects are known: for tests of what is computed from runs."""

import numpy as np
import xarray as xr
from scipy.special import expit

from samlib import Experiment


def simulate(seed, *, leak, skill, spread=1.0, models=24, examples=300, tests=300, like=None):
    """Runs of models whose logits rise by `leak` on members and whose test accuracy rises with `skill`."""
    rng = np.random.default_rng(0)  # what is paired: subsets, examples' difficulty
    member = rng.random((models, examples)) < 0.5
    easy, easy_test = 2 * rng.normal(size=examples), 2 * rng.normal(size=tests)
    rng = np.random.default_rng(seed)
    logit = easy + leak * member + spread * rng.normal(size=(models, examples))
    test_logit = easy_test + skill + spread * rng.normal(size=(models, tests))
    variables = {"member": (("model", "example"), member)}
    for prefix, dim, z in (("", "example", logit), ("test_", "test", test_logit)):
        p = expit(z)
        h = -p * np.log(p) - (1 - p) * np.log1p(-p)
        values = {
            "correct": z > 0,
            "logit": z.astype(np.float32),
            "entropy": h,
            "modified_entropy": -2 * (1 - p) * np.log(p),
        }
        variables |= {prefix + name: (("model", dim), value) for name, value in values.items()}
    for name, value in (("train_accuracy", ((logit > 0) & member).sum(1) / member.sum(1)), ("train_loss", np.ones(models)),
                        ("test_accuracy", (test_logit > 0).mean(1))):  # fmt: skip
        variables[name] = ("model", value)
    coordinates = {
        "model": np.arange(models),
        "label": ("example", np.arange(examples) % 3),
        "test_label": ("test", np.arange(tests) % 3),
    }
    attributes = {
        "data_checksum": "0" * 64,
        "seconds": 1.0,
        "machine": ["a machine"],
        "samlib": ["0"],
        "diverged": [],
        "key": "k",
        "experiment": Experiment(dataset="digits").model_dump_json(),
    }
    return xr.Dataset(variables, coordinates, attributes)

"""The two-class mixture of Figure 5 (Kim et al. 2023): sampling, Bayes rule, fits by SGD and SAM, exact errors.

Red is +1, blue is -1.
"""

from samlib.paper.mixture.fitting import MLP, Predictor, descend, features, fit, fit_mlp, newton, objective
from samlib.paper.mixture.measures import (
    PairedDraws,
    PairedTest,
    errors,
    failure_map,
    mass_apart,
    paired_draws,
    paired_test,
)
from samlib.paper.mixture.model import BLUE, CLUSTERS, RED, Mixture, quadrature

__all__ = [
    "BLUE",
    "CLUSTERS",
    "MLP",
    "RED",
    "Mixture",
    "PairedDraws",
    "PairedTest",
    "Predictor",
    "descend",
    "errors",
    "failure_map",
    "features",
    "fit",
    "fit_mlp",
    "mass_apart",
    "newton",
    "objective",
    "paired_draws",
    "paired_test",
    "quadrature",
]

"""The quantile-regression attack: predict an example's score for the case that the target did not train on it."""

from __future__ import annotations

import numpy as np

from samlib.checks import as_array, as_number, as_rates, same_shape


def quantile_regression(
    public_features, public_scores, target_features, target_scores, *, alpha=None, regressor=None, seed=0
) -> np.ndarray:
    """The quantile-regression attack (Bertran et al. 2023): regress the score's distribution on features.

    It needs no shadow models. A point scores high if its score exceeds what the regression predicts for a non-member.

    Parameters
    ----------
    public_features : (m, ...) array
        Features of m >= 10 points that the target did not train on. Features are all that is known without the target's
        training data: inputs, embeddings, labels, or other signals.
    public_scores : (m,) array
        The target's score on these points, such as a logit; higher for members.
    target_features, target_scores : (n, ...) and (n,) arrays
        The same for the points to judge.
    alpha : None, float or (levels,) array
        None: the Gaussian variant of the authors' code, one order for all false-positive rates. Mean and deviation are
        regressed. Rates inside (0, 1): one regression of the (1 - alpha)-quantile by pinball loss for each.
    regressor : scikit-learn regressor, optional
        By default, histogram gradient boosting. For alpha, it needs a quantile loss.
    seed : int
        Seed of the default regressor and the folds.

    Returns
    -------
    (n,) array; (levels, n) if alpha has an axis
        Higher = more likely a member. Without alpha it is (score - mean) / deviation. With alpha it is the score minus the
        quantile: call a member at that rate if this is at least 0.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or shapes disagree. Also if alpha lies outside (0, 1), or if alpha is given and the
        regressor has no quantile loss.

    Notes
    -----
    The deviation is fitted to absolute residuals across five folds. The deviation is at least a
    twentieth of their mean.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> features = rng.normal(size=(200, 1))
    >>> public = features[:, 0] + 0.1 * rng.normal(size=200)
    >>> scores = quantile_regression(features, public, [[0.0], [0.0]], [0.0, 1.0])
    >>> bool(scores[1] > scores[0] + 3)
    True
    """
    f, s = as_array("public_features", public_features), as_array("public_scores", public_scores, ndim=1)
    g, u = as_array("target_features", target_features), as_array("target_scores", target_scores, ndim=1)
    same_shape("public_features", f, "public_scores", s, slice(1))
    same_shape("target_features", g, "target_scores", u, slice(1))
    same_shape("target_features", g, "public_features", f, slice(1, None))
    if len(s) < 10:
        raise ValueError(f"public_scores holds {len(s)} point(s): a regression needs at least 10.")
    seed = as_number("seed", seed, 0, 2**32 - 1, whole=True)
    if not (regressor is None or hasattr(regressor, "get_params")):
        raise ValueError("regressor must be a scikit-learn regressor.")
    s, u = s.astype(np.float64), u.astype(np.float64)
    f, g = (a.astype(np.float32) if a.dtype == np.float16 else a for a in (f, g))  # float16 is too coarse for a fit
    f, g = f.reshape(len(f), -1), g.reshape(len(g), -1)
    if regressor is None:
        regressor = _boosting("squared_error" if alpha is None else "quantile", seed)
    if alpha is None:
        mean, deviation = _gaussian(regressor, f, s, g, seed)
        return (u - mean) / deviation
    levels, shape = as_rates("alpha", alpha), as_array("alpha", alpha, ndim=(0, 1)).shape
    return (u - _quantiles(regressor, f, s, g, levels)).reshape(*shape, len(u))


def _quantiles(regressor, f, s, g, levels) -> np.ndarray:
    """The quantiles (levels, n) of the targets' scores."""
    from sklearn.base import clone

    settings = regressor.get_params()
    name = "quantile" if "quantile" in settings else "alpha"
    if settings.get("loss", "quantile") != "quantile" or (name == "alpha" and "loss" not in settings):
        raise ValueError(f"regressor {type(regressor).__name__} has no quantile loss, which alpha needs.")
    return np.stack([clone(regressor).set_params(**{name: 1 - a}).fit(f, s).predict(g) for a in levels])


def _gaussian(regressor, f, s, g, seed) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation (n,) of the targets' scores."""
    from sklearn.base import clone
    from sklearn.model_selection import KFold, cross_val_predict

    mean = clone(regressor).fit(f, s).predict(g)
    # residuals are taken across folds: on points that the fit has seen they are too small
    held_out = cross_val_predict(clone(regressor), f, s, cv=KFold(5, shuffle=True, random_state=seed))
    size = np.abs(s - held_out)
    # A Gaussian's mean absolute deviation is sqrt(2 / pi) of its deviation. It is easier to regress than the square.
    deviation = np.sqrt(np.pi / 2) * clone(regressor).fit(f, size).predict(g)
    return mean, np.maximum(deviation, max(0.05 * size.mean(), 1e-30))


def _boosting(loss, seed):
    from sklearn.ensemble import HistGradientBoostingRegressor

    # Trees and steps are small. Larger ones fit the noise of a thousand public points.
    small = {"learning_rate": 0.05, "max_leaf_nodes": 8}
    return HistGradientBoostingRegressor(loss=loss, quantile=0.5, random_state=seed, **small)

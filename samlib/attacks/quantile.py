"""The quantile-regression attack: how high would this example's score be had the target not trained on it?"""

from __future__ import annotations

import copy

import numpy as np

from samlib.checks import as_array, as_number, as_rates


def quantile_regression(
    public_features,
    public_scores,
    target_features,
    target_scores,
    *,
    alpha=None,
    regressor=None,
    epochs=200,
    lr=1e-2,
    seed=0,
) -> np.ndarray:
    """Membership by regressing the score's distribution on features (Bertran et al. 2023), without shadow models.

    public_features (m, ...) and public_scores (m,), m at least 10: points that the target did not train on, and the
    target's score on them, such as logits; target_features (n, ...) and target_scores (n,): the points to judge.
    Features are anything known without the target's training data: inputs, embeddings, labels, or other signals.
    Higher = more likely a member.

    alpha None: the Gaussian variant of the authors' code. Mean and deviation are regressed and the score is
    (s - mean) / deviation, one order for all false-positive rates. Returns (n,). (A scikit-learn regressor fits the
    deviation to absolute residuals across five folds; it is at least a twentieth of their mean.)
    alpha a number or (levels,), false-positive rates inside (0, 1): one regression of the (1 - alpha)-quantile by
    pinball loss each. The score is s less the quantile, a member at that rate where it is at least 0. Returns (n,), or
    (levels, n).
    regressor: a scikit-learn regressor (for alpha one with a quantile loss), by default histogram gradient boosting;
    or a torch module that maps (batch, ...) features to (batch, 2), mean and log deviation, or for alpha to
    (batch, levels), trained for `epochs` by Adam at `lr` in batches of 256. It is copied, not changed.

    Raises ValueError for NaN or infinite values, shapes that disagree, alpha outside (0, 1), and a regressor without a
    quantile loss where alpha needs one.
    """
    f, s = as_array("public_features", public_features), as_array("public_scores", public_scores, ndim=1)
    g, u = as_array("target_features", target_features), as_array("target_scores", target_scores, ndim=1)
    for side, features, scores in (("public", f, s), ("target", g, u)):
        if features.shape[:1] != scores.shape:
            raise ValueError(
                f"{side}_features holds {len(np.atleast_1d(features))} examples, but {side}_scores {len(scores)}: "
                "they must agree."
            )
    if f.shape[1:] != g.shape[1:]:
        raise ValueError(f"target_features has shape {g.shape}, but public_features has shape {f.shape}.")
    if len(s) < 10:
        raise ValueError(f"public_scores holds {len(s)} point(s): a regression needs at least 10.")
    one = alpha is not None and as_array("alpha", alpha, ndim=(0, 1)).ndim == 0
    levels = None if alpha is None else np.array(as_rates("alpha", alpha))
    epochs, lr = as_number("epochs", epochs, 1, whole=True), as_number("lr", lr, 0, strict=True)
    seed = as_number("seed", seed, 0, 2**32 - 1, whole=True)
    if not (regressor is None or hasattr(regressor, "state_dict") or hasattr(regressor, "get_params")):
        raise ValueError("regressor must be a scikit-learn regressor or a torch module.")
    s, u = s.astype(np.float64), u.astype(np.float64)
    f, g = (a.astype(np.float32) if a.dtype == np.float16 else a for a in (f, g))  # in which no fit is exact enough

    if hasattr(regressor, "state_dict"):
        predicted = _torch_predict(regressor, f, s, g, levels, epochs, lr, seed)
    else:
        f, g = f.reshape(len(f), -1), g.reshape(len(g), -1)
        predicted = (
            _gaussian(regressor, f, s, g, seed) if alpha is None else _quantiles(regressor, f, s, g, levels, seed)
        )
    if alpha is None:
        mean, deviation = predicted
        return (u - mean) / deviation
    margins = u - predicted
    return margins[0] if one else margins


def _quantiles(regressor, f, s, g, levels, seed) -> np.ndarray:
    from sklearn.base import clone

    regressor = _boosting("quantile", 0.5, seed) if regressor is None else regressor
    settings = regressor.get_params()
    name = "quantile" if "quantile" in settings else "alpha"
    if settings.get("loss", "quantile") != "quantile" or (name == "alpha" and "loss" not in settings):
        raise ValueError(f"regressor {type(regressor).__name__} has no quantile loss, which alpha needs.")
    return np.stack([clone(regressor).set_params(**{name: 1 - a}).fit(f, s).predict(g) for a in levels])


def _gaussian(regressor, f, s, g, seed) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.base import clone
    from sklearn.model_selection import KFold, cross_val_predict

    regressor = _boosting("squared_error", None, seed) if regressor is None else regressor
    mean = clone(regressor).fit(f, s).predict(g)
    # Residuals of points that the fit has seen are too small: take them across folds.
    held_out = cross_val_predict(clone(regressor), f, s, cv=KFold(5, shuffle=True, random_state=seed))
    size = np.abs(s - held_out)
    # A Gaussian's mean absolute deviation is sqrt(2 / pi) of its deviation, and easier to regress than the square.
    deviation = np.sqrt(np.pi / 2) * clone(regressor).fit(f, size).predict(g)
    return mean, np.maximum(deviation, max(0.05 * size.mean(), 1e-30))


def _boosting(loss, quantile, seed):
    from sklearn.ensemble import HistGradientBoostingRegressor

    # Small trees and steps: larger ones fit the noise of a thousand public points.
    return HistGradientBoostingRegressor(
        loss=loss, quantile=quantile, learning_rate=0.05, max_leaf_nodes=8, random_state=seed
    )


def _torch_predict(module, f, s, g, levels, epochs, lr, seed):
    import torch

    module = copy.deepcopy(module).train()
    like = next(module.parameters(), None)
    if like is None:
        raise ValueError("regressor must have parameters to train.")
    if not max(np.abs(f).max(), np.abs(g).max()) <= np.finfo(np.float32).max:
        raise ValueError("public_features and target_features must lie in the range of float32 for a torch module.")
    centre, scale = s.mean(), s.std() or 1.0
    x, y, z = (
        torch.as_tensor(np.asarray(v, np.float32)).to(like.device, like.dtype) for v in (f, (s - centre) / scale, g)
    )
    q = None if levels is None else torch.as_tensor(1 - levels).to(y)
    width = 2 if q is None else len(q)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).to(x.device).split(256):
            out = module(x[batch])
            if out.shape != (len(batch), width):
                raise ValueError(f"regressor must map features to (batch, {width}), but gave {tuple(out.shape)}.")
            if q is None:
                mean, log_std = out.unbind(1)
                loss = (log_std + 0.5 * ((y[batch] - mean) * torch.exp(-log_std)) ** 2).mean()
            else:
                gap = y[batch, None] - out
                loss = torch.maximum(q * gap, (q - 1) * gap).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    with torch.no_grad():
        out = module.eval()(z).double().cpu().numpy()
    if q is None:
        return centre + scale * out[:, 0], scale * np.exp(out[:, 1])
    return centre + scale * out.T

"""The MSA order, Theorems 1 and 2, the window of Corollary 1 and its counterexamples."""

from collections.abc import Callable

import numpy as np
from scipy.special import log_ndtr, ndtr
from scipy.stats import norm

from samlib.paper.theory.checking import above, always, equal, estimated, least
from samlib.paper.theory.model import DataModel, advantage, alignments, error, interpolates
from samlib.paper.theory.samples import matched_interpolator


def msa_at_least(w1, w2, z, model: DataModel, tolerance: float = 1e-9) -> bool:
    """Definition 2: whether w1 is at least w2 in the MSA order, each of its four conditions to `tolerance`.

    Parameters
    ----------
    w1, w2 : (d,) array
        Weights.
    z : (n, d) array
        Signed training rows.
    model : DataModel
    tolerance : float

    Returns
    -------
    bool

    Examples
    --------
    >>> model = DataModel(d=30, p=8, q=3)
    >>> z = model.sample().z
    >>> w1, w2 = matched_interpolator(z, model, 0.7, 0.2, 5.0), matched_interpolator(z, model, 0.8, -0.2, 5.0)
    >>> msa_at_least(w1, w2, z, model)
    True
    """
    first, second = alignments(w1, model), alignments(w2, model)
    slack = min(first.A - second.A, second.M - first.M, -abs(first.s - second.s))
    return interpolates(w1, z, tolerance) and interpolates(w2, z, tolerance) and bool(slack >= -tolerance)


def error_difference(M1, A1, M2, A2, pi, cdf: Callable):
    """Theorem 1, eq. (6): err(w2) - err(w1).

    Parameters
    ----------
    M1, A1, M2, A2, pi : array_like
        Alignments of both models, and the minority share.
    cdf : callable
        The noise law F_B that both share.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> float(error_difference(0.5, 0.5, 0.5, 0.0, 0.1, ndtr)) > 0
    True
    """
    return pi * (cdf(A1) - cdf(A2)) - (1 - pi) * (cdf(M2) - cdf(M1))


def advantage_difference(M1, A1, M2, A2, pi, cdf: Callable):
    """Theorem 2, eq. (8): Adv*(w1) - Adv*(w2). It is eq. (6), shifted by the member level and with the opposite sign.

    Arguments as for `error_difference`.

    Examples
    --------
    >>> float(advantage_difference(0.5, 0.5, 0.5, 0.0, 0.1, ndtr)) < 0
    True
    """
    return -error_difference(M1 - 1, A1 - 1, M2 - 1, A2 - 1, pi, cdf)


def log_price(M1, A1, M2, A2, pi):
    """log Lambda of Definition 2, Lambda = (1 - pi) kappa / pi; -inf where kappa = 0. Arguments as `error_difference`.

    The exchange rate kappa is the majority alignment lost for each unit of minority alignment gained.

    Examples
    --------
    >>> round(float(log_price(0.5, 1.0, 1.5, 0.5, 0.5)), 4)
    0.6931
    """
    with np.errstate(divide="ignore"):
        return np.log((1 - pi) / pi * (M2 - M1) / (A1 - A2))


def theorem1_condition(M1, A1, M2, A2, s, pi):
    """Theorem 1(ii), eq. (7): sufficient for err(w1) < err(w2), if the noise is Gaussian, A1 > A2 and 0 <= M1 <= M2.

    Parameters
    ----------
    M1, A1, M2, A2, s, pi : array_like
        Alignments of both models, their nuisance scale and the minority share.

    Returns
    -------
    bool or ndarray of bool

    Examples
    --------
    >>> bool(theorem1_condition(0.9, 0.5, 0.9, 0.1, 0.4, 0.1))
    True
    """
    return (M1 >= 0) & (s**2 * log_price(M1, A1, M2, A2, pi) <= (M1**2 - np.maximum(A1**2, A2**2)) / 2)


def theorem2_condition(M1, A1, M2, A2, s, pi):
    """Theorem 2(ii), eq. (9): sufficient for Adv*(w1) >= Adv*(w2), if the noise is Gaussian, A1 > A2 and M1 < M2.

    Parameters and result are those of `theorem1_condition`.

    Examples
    --------
    >>> bool(theorem2_condition(0.7, 0.2, 0.9, 0.1, 0.4, 0.1))
    True
    """
    farthest = np.maximum((1 - M1) ** 2, (1 - M2) ** 2)
    nearest = (1 - np.clip(1, A2, A1)) ** 2
    return (M1 < M2) & (s**2 * log_price(M1, A1, M2, A2, pi) >= (farthest - nearest) / 2)


def slopes(M, A, s, kappa, pi) -> tuple:
    """Derivatives along a path of Corollary 1: A' = 1, M' = -kappa, fixed s.

    Parameters
    ----------
    M, A, s, kappa, pi : array_like
        Alignments, nuisance scale, exchange rate and minority share.

    Returns
    -------
    error, advantage : float or ndarray
        Derivatives of test error and of Adv* per unit of A.

    Examples
    --------
    >>> slopes(0.9, 0.1, 0.4, 0.0, 0.1)[0] < 0
    np.True_
    """
    pairs = ((M, A), (1 - M, 1 - A))
    return tuple((1 - pi) * kappa * norm.pdf(m, 0, s) - pi * norm.pdf(a, 0, s) for m, a in pairs)


def window(M, A):
    """Corollary 1, eq. (10): the open interval of s^2 log((1 - pi) kappa / pi) in which error falls and advantage rises.

    Parameters
    ----------
    M, A : array_like
        Alignments.

    Returns
    -------
    low, high : float or ndarray
        low is high - (M - A): the window is empty where A >= M.

    Examples
    --------
    >>> window(1.0, 0.0)
    (-0.5, 0.5)
    """
    high = (M**2 - A**2) / 2
    return high - (M - A), high


def changes(M1, A1, s1, M2, A2, s2, pi) -> tuple:
    """err(w1) - err(w2) and Adv*(w1) - Adv*(w2) of two models, each with a nuisance scale of its own.

    Examples
    --------
    >>> changes(0.9, 0.5, 0.4, 0.9, 0.5, 0.4, 0.1)
    (np.float64(0.0), np.float64(0.0))
    """
    return tuple(f(M1, A1, s1, pi) - f(M2, A2, s2, pi) for f in (error, advantage))


# CE1: without anti-alignment (kappa = 0), more A lowers the error and also the advantage. CE2: kappa is too large, or it is
# moderate and the majority is unsaturated; the advantage rises, but so does the error. CE4: M and A are equal, only s differs.
COUNTEREXAMPLES = {  # the arguments of `changes`
    "CE1 free": (0.9, 0.5, 0.4, 0.9, 0.1, 0.4, 0.1),
    "CE2 expensive": (0.2, 0.0, 0.2, 0.9, -0.05, 0.2, 0.1),
    "CE2 unsaturated": (0.1, 0.0, 0.3, 0.3, -0.2, 0.3, 0.1),
    "CE4 (a)": (0.9, 0.3, 0.3, 0.9, 0.3, 0.15, 0.1),
    "CE4 (b)": (0.9, -0.3, 0.3, 0.9, -0.3, 0.15, 0.1),
    "CE4 (c)": (1.2, 0.9, 0.3, 1.2, 0.9, 0.15, 0.1),
}


def check_definition2(problems):
    """Definition 2: the order holds for pairs that meet it, is reflexive and transitive, and needs each of its conditions."""
    for model in problems.models(20):
        z = model.sample(problems.rng).z
        make = lambda M, A, s=50.0, z=z, model=model: matched_interpolator(z, model, M, A, s)  # noqa: E731
        first, second, third = make(0.5, 0.4), make(0.7, 0.2), make(0.9, 0.0)
        pairs = ((first, second), (second, third), (first, third), (first, first))
        yield always("holds, reflexive and transitive", [msa_at_least(*pair, z, model, 1e-7) for pair in pairs])
        off = first + 1e-3 * problems.rng.standard_normal(model.d)
        without = ((off, off), (make(0.5, 0.4, 100.0), second), (second, make(0.9, 0.4)), (make(0.95, 0.4), second))
        conditions = ("the sample", "the noise", "the minority", "the majority")
        for condition, pair in zip(conditions, without, strict=True):
            yield always(f"needs the condition on {condition}", not msa_at_least(*pair, z, model, 1e-7))


def check_theorem1(problems):
    """Theorem 1: eq. (6); under condition (7) the error of w1 is smaller; bounded noise with a saturated majority."""
    pair = problems.pairs(100_000)
    M1, A1, M2, A2, s, pi = pair.values()
    formula = error_difference(M1, A1, M2, A2, pi, lambda t: ndtr(t / s))
    yield equal("eq. (6)", formula - (error(M2, A2, s, pi) - error(M1, A1, s, pi)), 1e-12)
    gain, loss = np.log(pi) + log_mass(A2, A1, s), np.log1p(-pi) + log_mass(M1, M2, s)
    yield above("under (7): log of minority gain over majority loss", (gain - loss)[theorem1_condition(**pair)])
    beta = np.clip(M1, 1e-3, 1)  # saturated where |B| <= beta <= M1
    saturated, moved = beta <= M1, (-beta < A1) & (beta > A2)
    bounded = error_difference(M1, A1, M2, A2, pi, lambda t: np.clip((t + beta) / (2 * beta), 0, 1))
    yield least("saturated majority: error never larger", bounded[saturated])
    yield above("saturated majority: smaller where F_B((A2, A1]) > 0", bounded[saturated & moved])


def check_theorem2(problems):
    """Theorem 2: eq. (8); under condition (9) Adv* of w1 is not smaller; bounded noise with a minority that is not fitted."""
    pair = problems.pairs(100_000)
    M1, A1, M2, A2, s, pi = pair.values()
    formula = advantage_difference(M1, A1, M2, A2, pi, lambda t: ndtr(t / s))
    yield equal("eq. (8)", formula - (advantage(M1, A1, s, pi) - advantage(M2, A2, s, pi)), 1e-12)
    gain, loss = np.log1p(-pi) + log_mass(M1 - 1, M2 - 1, s), np.log(pi) + log_mass(A2 - 1, A1 - 1, s)
    yield least("under (9): log of majority gain over minority loss", (gain - loss)[theorem2_condition(**pair)])
    beta = np.maximum(0.99 * (1 - A1), 1e-3)  # |B| <= beta < 1 - A1
    below, moved = beta < 1 - A1, (-beta < M2 - 1) & (beta > M1 - 1)
    bounded = advantage_difference(M1, A1, M2, A2, pi, lambda t: np.clip((t + beta) / (2 * beta), 0, 1))
    yield least("bounded noise below the member level: advantage never smaller", bounded[below])
    yield above("... and larger where F_B((M1 - 1, M2 - 1]) > 0", bounded[below & moved])


def check_pair_on_data(problems):
    """Theorems 1 and 2 on data: the formulas for an ordered pair of interpolators (Proposition 1), against fresh points."""
    model, M1, A1, M2, A2, s = DataModel(d=60, p=20, q=3, sigma=0.25, sigma_par=0.25, pi=0.2), 0.7, 0.2, 0.8, -0.2, 0.5
    z, fresh = model.sample(problems.rng).z, model.fresh(problems.count(100_000), problems.rng)
    pair = matched_interpolator(z, model, M1, A1, s), matched_interpolator(z, model, M2, A2, s)
    ordered = [msa_at_least(*pair, z, model, 1e-7), not msa_at_least(*pair[::-1], z, model, 1e-7)]
    yield always("the pair is ordered, and not the other way", ordered)
    first, second = (fresh.z @ w for w in pair)
    law = (M1, A1, M2, A2, model.pi, lambda t: ndtr(t / s))
    yield estimated("err(w2) - err(w1) on fresh points", (second <= 0) * 1.0 - (first <= 0), error_difference(*law))
    yield estimated("Adv*(w1) - Adv*(w2) on fresh points", (first < 1) * 1.0 - (second < 1), advantage_difference(*law))


def check_corollary1(problems):
    """Corollary 1: the slopes are the derivatives, and error falls while advantage rises exactly inside the window (10)."""
    M, A, s, pi = problems.alignments(200_000)
    kappa, h = 10 ** problems.rng.uniform(-3, 3, len(M)), 1e-6
    found = slopes(M, A, s, kappa, pi)
    for name, f, slope in zip(("error", "advantage"), (error, advantage), found, strict=True):
        numeric = (f(M - kappa * h, A + h, s, pi) - f(M + kappa * h, A - h, s, pi)) / (2 * h)
        yield equal(f"slope of {name} (relative to 1 + kappa)", (numeric - slope) / (1 + kappa), 1e-3)
    both, seen = (found[0] < 0) & (found[1] > 0), np.abs(found).min(0) > 1e-200  # others round to 0
    price = s**2 * np.log((1 - pi) * kappa / pi)
    low, high = window(M, A)
    clear = seen & (np.minimum(np.abs(price - low), np.abs(price - high)) > 1e-9 * (1 + np.abs(price)))
    inside = (low < price) & (price < high)
    yield always("both improve if and only if price is in its window", (both == inside)[clear])


def check_counterexamples(problems):
    """Counterexamples: CE1 to CE4, each with its numbers."""
    moves = {name: np.array(changes(*given)) for name, given in COUNTEREXAMPLES.items()}
    yield above("CE1: without anti-alignment error and advantage fall", -moves["CE1 free"], "change")
    for name, why in (("CE2 expensive", "kappa too large"), ("CE2 unsaturated", "unsaturated majority")):
        yield above(f"CE2: {why}: error and advantage rise", moves[name], "change")
    kappa, s, pi = np.meshgrid(np.logspace(-4, 4, 81), np.logspace(-1, 1, 21), np.linspace(0.02, 0.48, 12))
    error_slope, advantage_slope = slopes(0.3, 0.5, s, kappa, pi)  # M and A
    yield always("CE3: A >= M: never both", ~((error_slope < 0) & (advantage_slope > 0)))
    alone = np.array([moves[f"CE4 ({k})"] for k in "abc"])
    for name, each in zip(("error", "advantage"), alone.T, strict=True):
        yield above(f"CE4: s alone raises {name}, and lowers it elsewhere", [each.max(), -each.min()], "change")


def log_mass(low, high, s) -> np.ndarray:
    """Log of the N(0, s^2) mass of (low, high], exact in the tails, where the mass itself rounds to 0.

    Parameters
    ----------
    low, high, s : array_like

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> float(log_mass(-50.0, 50.0, 1.0))
    0.0
    """
    flip = low + high > 0  # the upper tail by symmetry
    u, v = np.where(flip, -high, low) / s, np.where(flip, -low, high) / s
    return log_ndtr(v) + np.log(-np.expm1(log_ndtr(u) - log_ndtr(v)))

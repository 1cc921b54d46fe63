// The mathematics of the theory explorer, equal to samlib.paper.theory: error, advantage, their slopes, Corollary 1's window.

function normalDensity(t) {
  return Math.exp(-(t * t) / 2) / Math.sqrt(2 * Math.PI);
}

// The standard normal cdf: a power series near 0, a continued fraction in the tails, so that small tails keep their digits.
function normalCdf(x) {
  const t = Math.abs(x);
  let tail;
  if (t < 3) {
    let term = t, sum = t;
    for (let k = 3; term > sum * 1e-17; k += 2) sum += term *= (t * t) / k;
    tail = 0.5 - normalDensity(t) * sum;
  } else {
    let fraction = t;
    for (let k = 80; k > 0; k--) fraction = t + k / fraction;
    tail = normalDensity(t) / fraction;
  }
  return x < 0 ? tail : 1 - tail;
}

// The price s^2 log((1 - pi) kappa / pi) that Corollary 1 compares with the window (low, high); -Infinity at kappa = 0.
function price({ s, pi, kappa }) {
  return s * s * Math.log(((1 - pi) * kappa) / pi);
}

function weigh(setting) {
  const { M, A, s, pi, kappa } = setting, high = (M * M - A * A) / 2, low = high - (M - A), value = price(setting);
  return {
    error: (1 - pi) * normalCdf(-M / s) + pi * normalCdf(-A / s),
    advantage: (1 - pi) * normalCdf((1 - M) / s) + pi * normalCdf((1 - A) / s),
    error_slope: ((1 - pi) * kappa * normalDensity(M / s) - pi * normalDensity(A / s)) / s,
    advantage_slope: ((1 - pi) * kappa * normalDensity((1 - M) / s) - pi * normalDensity((1 - A) / s)) / s,
    price: value,
    low,
    high,
    error_falls: value < high,
    advantage_rises: value > low,
  };
}

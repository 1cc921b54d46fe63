// The mathematics of the theory explorer, equal to samlib.paper.theory: error, advantage, their slopes, Corollary 1's window.

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

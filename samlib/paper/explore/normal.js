// The standard normal law.

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

// Which points SGD and SAM remember, and which LiRA finds: as samlib.paper.mixture.memorization and exposure, to rounding.

const REST = { n_typical: 40, n_blue: 40, degree: 2, atypical_x: 2.2, atypical_y: 0.6, spread: 0.35 };
const SHADOWS = 128;
const GROUPS = ["Typical red", "Atypical red", "Blue"];

// The bits of shadow fit k: which of n points it sees. Both optimizers share them.
const seenBy = (seed, k, n) => uniforms(seed, 16 + k, n).map((u) => (u < 0.5 ? 1 : 0));

// Weights of the fit to the points that are `seen`, from the weights of the fit to all.
function refit(phi, y, rho, seen, start) {
  const count = seen.reduce((sum, one) => sum + one, 0);
  return newton(phi, y, rho, { mass: Float64Array.from(seen, (one) => one / count), start });
}

// One optimizer's fit to all points; what is known of each point grows with `leaveOut` and `addShadow`.
function begin({ x, y, n }, phi, rho) {
  const p = phi.length / n, weights = newton(phi, y, rho);
  const logit = (w, i) => {
    let sum = 0;
    for (let k = 0; k < p; k++) sum += w[k] * phi[i * p + k];
    return y[i] * sum;
  };
  const probability = (z) => 1 / (1 + Math.exp(-z));
  const memorization = new Float64Array(n);
  const sums = [0, 1].map(() => [0, 1, 2].map(() => new Float64Array(n))); // out, in: counts, logits, their squares
  return {
    weights,
    memorization,
    leaveOut(i) {
      const others = new Float64Array(n).fill(1);
      others[i] = 0;
      memorization[i] = probability(logit(weights, i)) - probability(logit(refit(phi, y, rho, others, weights), i));
    },
    addShadow(seen) {
      const w = refit(phi, y, rho, seen, weights);
      for (let i = 0; i < n; i++) [1, logit(w, i), logit(w, i) ** 2].forEach((value, k) => (sums[seen[i]][k][i] += value));
    },
    // of point i; a half where the shadows so far do not tell
    exposureOf(i) {
      const [[out, far], [inside, near]] = sums.map(([count, sum, square]) => {
        const mean = sum[i] / count[i];
        return [mean, square[i] / count[i] - mean ** 2];
      });
      return near + far > 0 ? normalCdf((inside - out) / Math.sqrt(near + far)) : 0.5;
    },
  };
}

// Everything that one setting shows, bit by bit: each turn of this generator costs about a millisecond.
function* remember(setting) {
  const whole = { ...REST, ...setting }, sample = draw(whole), phi = features(sample.x, sample.n, whole.degree);
  const sgd = begin(sample, phi, 0), sam = whole.rho === 0 ? sgd : begin(sample, phi, whole.rho);
  const found = { sample, sgd, sam }, fits = new Set([sgd, sam]);
  for (let i = 0; i < sample.n; i++) {
    fits.forEach((fit) => fit.leaveOut(i));
    if (i % 4 === 3) yield found;
  }
  for (let k = 0; k < SHADOWS; k++) {
    const seen = seenBy(whole.seed, k, sample.n);
    fits.forEach((fit) => fit.addShadow(seen));
    yield found;
  }
  return found;
}

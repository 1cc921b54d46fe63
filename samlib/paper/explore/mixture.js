// The mathematics of the mixture explorer: the same draw, fit and measures as samlib.paper.explore.draw,
// samlib.paper.mixture.fit and samlib.paper.mixture.errors, to rounding. Points are flat arrays x[2 i], x[2 i + 1]; clusters are 0 typical, 1 atypical, 2 blue.

const MEANS = [[-1.3, -0.2], null, [0.6, 0.0]];
const SPREADS = [0.6, null, 0.55];
const SHARES = [0.4, 0.1, 0.5];
const SCALE = 2; // features are monomials of x / SCALE
const L2 = 1e-4;
const MEASURES = ["error", "atypical_accuracy", "disagreement", "advantage"];

// Means and spreads; log p(x, cluster) = levels[c] - curves[c] |x - means[c]|^2.
function mixtureOf(setting) {
  const spreads = [SPREADS[0], setting.spread, SPREADS[2]];
  return {
    means: [MEANS[0], [setting.atypical_x, setting.atypical_y], MEANS[2]],
    spreads,
    curves: spreads.map((spread) => 1 / (2 * spread ** 2)),
    levels: spreads.map((spread, c) => Math.log(SHARES[c]) - Math.log(2 * Math.PI * spread ** 2)),
  };
}

// ---- the draw: a counter-based generator, so that one more point moves none of the others

function mix(h) {
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

function uniforms(seed, stream, n) {
  const key = mix((mix(seed) + stream) >>> 0), u = new Float64Array(n);
  for (let j = 0; j < n; j++) u[j] = (mix((key + Math.imul(j + 1, 0x9e3779b9)) >>> 0) + 0.5) / 4294967296;
  return u;
}

function normals(seed, stream, n) {
  const u = uniforms(seed, stream, 2 * n), z = new Float64Array(2 * n);
  for (let i = 0; i < 2 * n; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(u[i])), angle = 2 * Math.PI * u[i + 1];
    z[i] = radius * Math.cos(angle);
    z[i + 1] = radius * Math.sin(angle);
  }
  return z;
}

function draw(setting) {
  const { means, spreads } = mixtureOf(setting);
  const counts = [setting.n_typical, setting.n_atypical, setting.n_blue];
  const n = counts[0] + counts[1] + counts[2];
  const x = new Float64Array(2 * n), y = new Float64Array(n), cluster = new Uint8Array(n);
  let at = 0;
  counts.forEach((count, c) => {
    const z = normals(setting.seed, c, count);
    for (let i = 0; i < count; i++, at++) {
      x[2 * at] = means[c][0] + spreads[c] * z[2 * i];
      x[2 * at + 1] = means[c][1] + spreads[c] * z[2 * i + 1];
      y[at] = c < 2 ? 1 : -1;
      cluster[at] = c;
    }
  });
  return { x, y, cluster, counts, n };
}

// ---- the fit: Newton's method on eq. (13), step for step as samlib.paper.mixture.newton

function features(x, n, degree) {
  const p = ((degree + 1) * (degree + 2)) / 2, phi = new Float64Array(n * p);
  for (let i = 0, at = 0; i < n; i++) {
    const u = x[2 * i] / SCALE, v = x[2 * i + 1] / SCALE;
    for (let total = 0; total <= degree; total++)
      for (let k = 0; k <= total; k++) phi[at++] = u ** (total - k) * v ** k;
  }
  return phi;
}

// Solve H z = b in place for a positive definite H (p x p, lower triangle), by Cholesky.
function solveDefinite(H, b, p) {
  for (let i = 0; i < p; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = H[i * p + j];
      for (let k = 0; k < j; k++) sum -= H[i * p + k] * H[j * p + k];
      H[i * p + j] = i === j ? Math.sqrt(sum) : sum / H[j * p + j];
    }
    for (let k = 0; k < i; k++) b[i] -= H[i * p + k] * b[k];
    b[i] /= H[i * p + i];
  }
  for (let i = p - 1; i >= 0; i--) {
    for (let k = i + 1; k < p; k++) b[i] -= H[k * p + i] * b[k];
    b[i] /= H[i * p + i];
  }
  return b;
}

// `mass` weighs the examples, and leaves out those of mass 0; `start` are weights to start from.
function newton(phi, y, rho, { mass = null, start = null, maxSteps = 500 } = {}) {
  const n = y.length, p = phi.length / n, offset = new Float64Array(n), signed = new Float64Array(n * p);
  const rows = [], share = mass ?? new Float64Array(n).fill(1 / n);
  for (let i = 0; i < n; i++) {
    if (share[i] > 0) rows.push(i);
    let squared = 0;
    for (let k = i * p; k < (i + 1) * p; k++) {
      squared += phi[k] * phi[k];
      signed[k] = phi[k] * y[i];
    }
    offset[i] = rho * Math.sqrt(squared);
  }
  const z = new Float64Array(n); // z_i = rho ||phi_i|| - y_i <w, phi_i>, as the last call of `value` left it
  function value(w) {
    let sum = 0, norm = 0;
    for (const i of rows) {
      let dot = 0;
      for (let k = 0; k < p; k++) dot += w[k] * signed[i * p + k];
      z[i] = offset[i] - dot;
      sum += share[i] * (Math.max(z[i], 0) + Math.log1p(Math.exp(-Math.abs(z[i]))));
    }
    for (let k = 0; k < p; k++) norm += w[k] * w[k];
    return sum + 0.5 * L2 * norm;
  }
  let w = start ?? new Float64Array(p), current = value(w);
  for (let iteration = 0; iteration < maxSteps; iteration++) {
    const gradient = w.map((weight) => L2 * weight), H = new Float64Array(p * p);
    for (const i of rows) {
      const s = 1 / (1 + Math.exp(-z[i])), slope = share[i] * s, curve = slope * (1 - s), row = i * p;
      for (let j = 0; j < p; j++) {
        gradient[j] -= slope * signed[row + j];
        const scaled = curve * signed[row + j];
        for (let k = 0; k <= j; k++) H[j * p + k] += scaled * signed[row + k];
      }
    }
    for (let k = 0; k < p; k++) H[k * p + k] += L2;
    const step = solveDefinite(H, gradient.slice(), p);
    const decrement = gradient.reduce((sum, g, k) => sum + g * step[k], 0);
    for (let t = 1; ; t /= 2) {
      const next = w.map((weight, k) => weight - t * step[k]), proposed = value(next);
      if (!(proposed > current - 1e-4 * t * decrement + 1e-14)) {
        w = next;
        current = proposed;
        break;
      }
    }
    if (decrement < 1e-16) break;
  }
  return w;
}

function degreeOf(weights) {
  return (Math.sqrt(8 * weights.length + 1) - 3) / 2;
}

// The score on the grid xs x ys, into out[i * ys.length + j]: a polynomial in y per x, by Horner's rule.
function scoreGrid(weights, xs, ys, out, from = 0) {
  const degree = degreeOf(weights), column = new Float64Array(degree + 1);
  for (let i = 0; i < xs.length; i++) {
    const u = xs[i] / SCALE;
    column.fill(0);
    for (let total = 0, at = 0; total <= degree; total++)
      for (let k = 0; k <= total; k++) column[k] += weights[at++] * u ** (total - k);
    for (let j = 0; j < ys.length; j++) {
      const v = ys[j] / SCALE;
      let score = column[degree];
      for (let k = degree - 1; k >= 0; k--) score = score * v + column[k];
      out[from + i * ys.length + j] = score;
    }
  }
  return out;
}

function score(weights, x, n) {
  const phi = features(x, n, degreeOf(weights)), p = weights.length, out = new Float64Array(n);
  for (let i = 0; i < n; i++) for (let k = 0; k < p; k++) out[i] += phi[i * p + k] * weights[k];
  return out;
}

// ---- the population: densities, Bayes rule, quadrature, measures

function logJoint({ means, curves, levels }, c, x1, x2) {
  const d1 = x1 - means[c][0], d2 = x2 - means[c][1];
  return levels[c] - curves[c] * (d1 * d1 + d2 * d2);
}

// log p(x, red) - log p(x, blue)
function logRatio(mixture, x1, x2) {
  const typical = logJoint(mixture, 0, x1, x2), atypical = logJoint(mixture, 1, x1, x2), gap = Math.abs(typical - atypical);
  // Beyond a gap of 40 the smaller term is below the rounding of the larger.
  return Math.max(typical, atypical) + (gap < 40 ? Math.log1p(Math.exp(-gap)) : 0) - logJoint(mixture, 2, x1, x2);
}

const NODES = Float64Array.from({ length: 160 }, (_, i) => -5 + 1 / 32 + i / 16);
const WEIGHTS = (() => {
  const w = new Float64Array(NODES.length ** 2);
  NODES.forEach((a, i) => NODES.forEach((b, j) => (w[i * NODES.length + j] = Math.exp(-(a * a + b * b) / 2))));
  const sum = w.reduce((total, value) => total + value, 0);
  return w.map((value) => value / sum);
})();

// The midpoint rule of samlib.paper.mixture.quadrature, with the Bayes score at its points: what one mixture needs once.
function population(mixture) {
  const grids = mixture.means.map((mean, c) => mean.map((m) => NODES.map((z) => m + mixture.spreads[c] * z)));
  const bayes = new Float64Array(3 * WEIGHTS.length);
  let at = 0;
  for (const [xs, ys] of grids) for (const x1 of xs) for (const x2 of ys) bayes[at++] = logRatio(mixture, x1, x2);
  return { grids, bayes };
}

function gridScores(weights, grids) {
  const out = new Float64Array(3 * WEIGHTS.length);
  grids.forEach(([xs, ys], c) => scoreGrid(weights, xs, ys, out, c * WEIGHTS.length));
  return out;
}

// error, atypical_accuracy, disagreement and advantage, from scores on the quadrature points and on the draw.
function measures(scores, memberScores, sample, bayes) {
  const size = WEIGHTS.length, n = sample.n;
  const margins = memberScores.map((s, i) => s * sample.y[i]).sort();
  const mass = new Float64Array(n + 1); // of fresh margins with exactly k members at or below
  let error = 0, atypical = 0, disagreement = 0;
  for (let c = 0; c < 3; c++) {
    const label = c < 2 ? 1 : -1, fresh = sample.counts[c] / n;
    for (let i = 0; i < size; i++) {
      const s = scores[c * size + i], w = WEIGHTS[i], red = s >= 0;
      if (red !== c < 2) error += w * SHARES[c];
      if (red !== bayes[c * size + i] >= 0) disagreement += w * SHARES[c];
      if (c === 1 && red) atypical += w;
      let low = 0, high = n; // count of member margins <= this one
      const margin = label * s;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (margins[middle] <= margin) low = middle + 1;
        else high = middle;
      }
      mass[low] += w * fresh;
    }
  }
  let advantage = 0, above = 0; // the fresh mass at or above margins[k]; of equal margins the first counts most
  for (let k = n - 1; k >= 0; k--) {
    above += mass[k + 1];
    advantage = Math.max(advantage, 1 - k / n - above);
  }
  return { error, atypical_accuracy: atypical, disagreement, advantage };
}

// Everything that one setting shows. `cache` keeps the population while the mixture stays.
function solve(setting, cache = {}) {
  const mixture = mixtureOf(setting), key = JSON.stringify(mixture);
  if (cache.key !== key) Object.assign(cache, { key, mixture, population: population(mixture), picture: null });
  const { grids, bayes } = cache.population, sample = draw(setting);
  const phi = features(sample.x, sample.n, setting.degree);
  const fits = {};
  for (const [name, rho] of [["sgd", 0], ["sam", setting.rho]]) {
    const weights = name === "sam" && rho === 0 ? fits.sgd.weights : newton(phi, sample.y, rho);
    fits[name] = { weights, ...measures(gridScores(weights, grids), score(weights, sample.x, sample.n), sample, bayes) };
  }
  const own = new Float64Array(sample.n).map((_, i) => logRatio(mixture, sample.x[2 * i], sample.x[2 * i + 1]));
  return { sample, mixture, ...fits, bayes: measures(bayes, own, sample, bayes) };
}

// Level lines of a function sampled on a grid, joined into polylines (so that dashes run on), as the `d` of an SVG path.

// values[i * ys.length + j] at (xs[i], ys[j]); toX and toY map to pixels.
function contour(values, xs, ys, level, toX, toY) {
  const nx = xs.length, ny = ys.length;
  // Edge 2 (i ny + j) runs from node (i, j) to (i + 1, j), the odd one to (i, j + 1). Each crossing has up to two neighbours.
  const next = new Int32Array(4 * nx * ny).fill(-1);
  const link = (a, b) => {
    next[2 * a + (next[2 * a] < 0 ? 0 : 1)] = b;
    next[2 * b + (next[2 * b] < 0 ? 0 : 1)] = a;
  };
  const crossed = [];
  for (let i = 0; i < nx - 1; i++)
    for (let j = 0; j < ny - 1; j++) {
      const at = i * ny + j;
      const a = values[at] >= level, b = values[at + ny] >= level;
      const c = values[at + ny + 1] >= level, d = values[at + 1] >= level;
      if (a === b && b === c && c === d) continue;
      const bottom = 2 * at, top = 2 * (at + 1), left = 2 * at + 1, right = 2 * (at + ny) + 1;
      const edges = [];
      if (a !== b) edges.push(bottom);
      if (b !== c) edges.push(right);
      if (c !== d) edges.push(top);
      if (d !== a) edges.push(left);
      crossed.push(...edges);
      if (edges.length === 2) link(edges[0], edges[1]);
      else {
        // A saddle: the mean of the corners says which two corners hang together.
        const middle = (values[at] + values[at + 1] + values[at + ny] + values[at + ny + 1]) / 4 >= level;
        if (middle === a) link(bottom, right), link(top, left);
        else link(bottom, left), link(top, right);
      }
    }
  const point = (edge) => {
    const at = edge >> 1, i = Math.floor(at / ny), j = at % ny, across = edge % 2 === 0;
    const from = values[at], t = (level - from) / (values[across ? at + ny : at + 1] - from);
    const x = across ? xs[i] + t * (xs[i + 1] - xs[i]) : xs[i];
    const y = across ? ys[j] : ys[j] + t * (ys[j + 1] - ys[j]);
    return `${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`;
  };
  const seen = new Uint8Array(2 * nx * ny);
  let path = "";
  const walk = (edge) => {
    const points = [];
    for (let from = -1; edge >= 0 && !seen[edge]; ) {
      seen[edge] = 1;
      points.push(point(edge));
      const [a, b] = [next[2 * edge], next[2 * edge + 1]], to = a === from || seen[a] ? b : a;
      from = edge;
      edge = to;
    }
    return points.join("L");
  };
  for (const edge of crossed) if (next[2 * edge + 1] < 0 && !seen[edge]) path += `M${walk(edge)}`; // open ends first
  for (const edge of crossed) if (!seen[edge]) path += `M${walk(edge)}Z`;
  return path;
}

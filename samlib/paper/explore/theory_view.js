// The theory explorer: where in the plane of (M, A) error falls and advantage rises, the window of Corollary 1, the numbers.

const PLANE = { x: [-0.5, 1.5], y: [-1, 1.25], aspect: 1.5 };
const STRIP = { from: -2.5, to: 2.5, height: 64 };

function theoryExplorer(controls) {
  return ({ model, el }) => {
    const byName = Object.fromEntries(controls.map((control) => [control.name, control]));
    const ui = panel({ model, el }, { name: "theory", controls, paint });
    const rows = ["Test error", "Attacker\u2019s advantage", "Error slope, per unit of A", "Advantage slope, per unit of A",
      "Window, low end", "Price s\u00b2 log((1 \u2212 \u03c0) \u03ba / \u03c0)", "Window, high end"];
    const numbers = table("At this point", ["", "Value"], rows);
    const verdict = element("p", { class: "samlib-verdict" });
    const marks = Object.fromEntries(["falls", "rises", "both", "still", "calm", "diagonal", "arrow", "strip", "span"].map((n) => [n, path(n)]));
    const axes = shape("g", { class: "samlib-axes" }), notes = shape("g", { class: "samlib-notes" });
    const point = shape("g", { class: "samlib-point" }, shape("circle", { class: "samlib-reach", r: 24 }), shape("circle", { r: 7 }));
    const strip = shape("svg", { class: "samlib-picture samlib-line", "aria-hidden": "true" });
    const needle = path("needle"), labels = shape("g", { class: "samlib-axes" });
    ui.svg.append(marks.falls, marks.rises, marks.both, axes, marks.diagonal, marks.still, marks.calm, notes, marks.arrow, point);
    strip.append(marks.strip, marks.span, labels, needle);
    ui.draggable(point, (px, py) => {
      const s = scales(ui.frame.clientWidth, PLANE.aspect, PLANE.x, PLANE.y);
      ui.change({ M: onto(byName.M, s.fromX(px)), A: onto(byName.A, s.fromY(py)) });
    });
    const key = (name, text, d = "M1 2H25V12H1Z") => entry(text, path(name, { d }));
    ui.root.append(
      element("div", { class: "samlib-show" }, ui.frame,
        element("ul", { class: "samlib-legend" }, key("falls", "error falls"), key("rises", "advantage rises"),
          key("both", "both: the window"), key("arrow", "direction of the path", "M1 7H23M18 3L23 7L18 11")),
        strip),
      element("div", { class: "samlib-controls" }, ui.group("Point and path")),
      element("div", { class: "samlib-numbers" }, verdict, numbers.node,
        ui.buttons()),
      ui.status);

    function paint(setting, width) {
      const result = weigh(setting), s = scales(width, PLANE.aspect, PLANE.x, PLANE.y);
      resize(ui.svg, s.width, s.height);
      axes.replaceChildren(...planeAxes(s));
      const regions = planeRegions(result.price, s);
      for (const name of ["falls", "rises", "both", "still", "calm"]) marks[name].setAttribute("d", regions[name]);
      marks.diagonal.setAttribute("d", `M${s.x(-0.35)} ${s.y(-0.35)}L${s.x(1.25)} ${s.y(1.25)}`);
      const x = s.x(setting.M), y = s.y(setting.A);
      point.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      marks.arrow.setAttribute("d", arrow(x, y, s.x(-setting.kappa) - s.x(0), s.y(1) - s.y(0)));
      drawStrip(result, width);
      const inside = result.error_falls && result.advantage_rises;
      ui.root.classList.toggle("samlib-inside", inside);
      const error = result.error_falls ? "error falls" : "error does not fall";
      const advantage = result.advantage_rises ? "advantage rises" : "advantage does not rise";
      const text = `${inside ? "Inside" : "Outside"} the window: along the path ${error} and ${advantage}.`;
      verdict.textContent = text;
      [decimals(result.error, 4), decimals(result.advantage, 4), compact(result.error_slope), compact(result.advantage_slope),
        decimals(result.low, 3), decimals(result.price, 3), decimals(result.high, 3)].forEach(
        (value, i) => (numbers.cells[i][0].textContent = value));
      return `The plane of majority alignment M and minority alignment A, with the point M ${decimals(setting.M, 2)}, ` +
        `A ${decimals(setting.A, 2)}. ${text} Error ${result.error.toFixed(4)}, advantage ${result.advantage.toFixed(4)}; ` +
        `the price ${decimals(result.price, 3)} against a window from ${decimals(result.low, 3)} to ${decimals(result.high, 3)}.`;
    }

    function drawStrip({ low, high, price: value }, width) {
      const x = (v) => 12 + ((Math.min(STRIP.to, Math.max(STRIP.from, v)) - STRIP.from) / (STRIP.to - STRIP.from)) * (width - 24);
      resize(strip, width, STRIP.height);
      marks.strip.setAttribute("d", `M12 34H${width - 12}`);
      marks.span.setAttribute("d", low < high ? `M${x(low)} 34H${x(high)}` : "");
      // A price off the strip is an arrow head at its end.
      const at = x(value), off = value > STRIP.to ? 1 : value < STRIP.from ? -1 : 0;
      needle.setAttribute("d", off ? `M${at - 6 * off} 26L${at + 4 * off} 34L${at - 6 * off} 42Z` : `M${at} 24l6 -10h-12ZM${at} 24V44`);
      const text = (v, name, anchor) => shape("text", { x: x(v), y: 58, "text-anchor": anchor }, name);
      const ends = low < high ? [text(low, `low ${decimals(low, 2)}`, "end"), text(high, `high ${decimals(high, 2)}`, "start")] : [text(0, "the window is empty: A \u2265 M", "middle")];
      const anchor = at < width / 4 ? "start" : at > (3 * width) / 4 ? "end" : "middle";
      labels.replaceChildren(...ends, shape("text", { x: at, y: 10, "text-anchor": anchor }, `price ${decimals(value, 2)}`));
    }
    return ui.close;
  };
}

// Numbers stay clear of the axes' names in the corners.
function planeAxes(s) {
  const lines = [], text = (x, y, string, extra = {}) => shape("text", { x, y, ...extra }, string);
  for (const M of [0, 0.5, 1]) {
    lines.push(shape("line", { x1: s.x(M), x2: s.x(M), y1: 0, y2: s.height }), ...(s.x(M) < s.width - 96 ? [text(s.x(M) + 3, s.height - 5, String(M))] : []));
  }
  for (const A of [-0.5, 0, 0.5, 1]) {
    lines.push(shape("line", { x1: 0, x2: s.width, y1: s.y(A), y2: s.y(A) }), ...(s.y(A) > 36 ? [text(4, s.y(A) - 4, minus(String(A)))] : []));
  }
  lines.push(text(s.width - 6, s.height - 5, "M, majority", { "text-anchor": "end" }), text(4, 14, "A, minority"));
  return lines;
}

// Corollary 1 in the plane, for a price L: error falls where A^2 < M^2 - 2 L, advantage rises where (1 - A)^2 > (1 - M)^2 - 2 L.
function planeRegions(L, s) {
  const [low, high] = PLANE.y, clip = (v) => Math.min(high, Math.max(low, v));
  // Columns, closer together at the tips of both hyperbolas, where the curves stand upright.
  const tips = L > 0 ? [0, 1].flatMap((M) => [M - Math.sqrt(2 * L), M + Math.sqrt(2 * L)]) : [];
  const Ms = Array.from({ length: 401 }, (_, i) => PLANE.x[0] + (i / 400) * (PLANE.x[1] - PLANE.x[0]))
    .concat(tips.flatMap((tip) => [-1e-3, -2e-4, -1e-9, 1e-9, 2e-4, 1e-3].map((step) => tip + step)))
    .filter((M) => M >= PLANE.x[0] && M <= PLANE.x[1])
    .sort((a, b) => a - b);
  const root = (v) => (v > 0 ? Math.sqrt(v) : null);
  const fall = Ms.map((M) => root(M * M - 2 * L)), rise = Ms.map((M) => root((1 - M) ** 2 - 2 * L));
  const everywhere = [low, high];
  const below = (i) => (rise[i] === null ? everywhere : [low, 1 - rise[i]]), above = (i) => (rise[i] === null ? null : [1 + rise[i], high]);
  const falls = (i) => (fall[i] === null ? null : [-fall[i], fall[i]]);
  const meet = (p, q) => p && q && [Math.max(p[0], q[0]), Math.min(p[1], q[1])];
  const at = (M, A) => `${s.x(M).toFixed(1)} ${s.y(clip(A)).toFixed(1)}`;
  // Areas between two curves over runs of columns in which there is something between them.
  function area(interval) {
    let path = "", run = [];
    const close = () => {
      if (run.length > 1) path += `M${run.map(([M, a]) => at(M, a)).join("L")}L${run.reverse().map(([M, , b]) => at(M, b)).join("L")}Z`;
      run = [];
    };
    Ms.forEach((M, i) => {
      const found = interval(i);
      if (found && clip(found[0]) < clip(found[1])) run.push([M, ...found]);
      else close();
    });
    close();
    return path;
  }
  // One curve, broken where it leaves the plane.
  const curve = (f) => Ms.reduce(([path, open], M, i) => {
    const A = f(i), seen = A !== null && A > low && A < high;
    return [seen ? `${path}${open ? "L" : "M"}${at(M, A)}` : path, seen];
  }, ["", false])[0];
  const or = (values, sign, centre) => curve((i) => (values[i] === null ? null : centre + sign * values[i]));
  return {
    falls: area(falls),
    rises: area(below) + area(above),
    both: area((i) => meet(falls(i), below(i))) + area((i) => meet(falls(i), above(i))),
    still: or(fall, 1, 0) + or(fall, -1, 0),
    calm: or(rise, 1, 1) + or(rise, -1, 1),
  };
}

function arrow(x, y, dx, dy) {
  const length = Math.hypot(dx, dy), [ux, uy] = [dx / length, dy / length], [tx, ty] = [x + 46 * ux, y + 46 * uy];
  const side = (sign) => `${(tx - 9 * ux + sign * 5 * uy).toFixed(1)} ${(ty - 9 * uy - sign * 5 * ux).toFixed(1)}`;
  return `M${(x + 8 * ux).toFixed(1)} ${(y + 8 * uy).toFixed(1)}L${tx.toFixed(1)} ${ty.toFixed(1)}M${side(1)}L${tx.toFixed(1)} ${ty.toFixed(1)}L${side(-1)}`;
}

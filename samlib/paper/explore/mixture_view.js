// The mixture explorer: the picture of the draw and the three boundaries, the numbers, the kept settings.

const VIEW = { x: [-4, 5], y: [-3, 3], aspect: 1.5 };
const GRID = {
  x: Float64Array.from({ length: 181 }, (_, i) => VIEW.x[0] + i / 20),
  y: Float64Array.from({ length: 121 }, (_, i) => VIEW.y[0] + i / 20),
};
const LEVELS = [0.008, 0.025, 0.06, 0.11, 0.17];
const NAMES = { error: "Test error", atypical_accuracy: "Atypical accuracy", disagreement: "Disagreement with Bayes",
  advantage: "Attacker\u2019s advantage" };
const MOST_KEPT = 6;

function mixtureExplorer(controls) {
  return ({ model, el }) => {
    const cache = {};
    const byName = Object.fromEntries(controls.map((control) => [control.name, control]));
    const ui = panel({ model, el }, { name: "mixture", controls, extra: ["kept"], paint });
    const marks = layers(ui.svg);
    const numbers = table("Both fits and the Bayes rule", ["", headed("SGD"), headed("SAM"), "SAM \u2212 SGD", headed("Bayes")], MEASURES.map((m) => NAMES[m]));
    const kept = element("div", { class: "samlib-kept" });
    const settingOf = (values) => Object.fromEntries(controls.map(({ name }) => [name, values[name]]));
    const keep = () => ui.change({ kept: [...model.get("kept"), settingOf(ui.read())].slice(-MOST_KEPT) });
    ui.draggable(marks.handle, (px, py) => {
      const s = scales(ui.frame.clientWidth, VIEW.aspect, VIEW.x, VIEW.y);
      ui.change({ atypical_x: onto(byName.atypical_x, s.fromX(px)), atypical_y: onto(byName.atypical_y, s.fromY(py)) });
    });
    ui.root.append(
      element("div", { class: "samlib-show" }, ui.frame, legend()),
      element("div", { class: "samlib-controls" },
        ui.group("Fit", ["rho", "degree"]),
        ui.group("Draw", ["n_typical", "n_atypical", "n_blue", "seed"]),
        ui.group("Atypical cluster", ["atypical_x", "atypical_y", "spread"])),
      element("div", { class: "samlib-numbers" }, numbers.node,
        ui.buttons(button("Keep this setting", keep))),
      kept,
      ui.status);

    let shownKept = null;
    const known = new Map(); // fits of kept settings
    function paint(setting, width) {
      const result = solve(setting, cache);
      drawPicture(marks, ui.svg, setting, result, cache, width);
      MEASURES.forEach((measure, i) => {
        const [sgd, sam, bayes] = [result.sgd, result.sam, result.bayes].map((fit) => fit[measure]);
        [decimals(sgd, 4), decimals(sam, 4), signed(sam - sgd, 4), decimals(bayes, 4)].forEach(
          (text, column) => (numbers.cells[i][column].textContent = text));
      });
      if (setting.kept !== shownKept) showKept((shownKept = setting.kept));
      return sentence(setting, result);
    }

    function showKept(list) {
      if (!list.length) {
        kept.replaceChildren(element("p", {}, "Keep a setting, move a slider, keep again: the two stand here, SGD \u2192 SAM."));
        return;
      }
      const head = element("tr", {}, ...MEASURES.map((m) => element("th", { scope: "col" }, NAMES[m].replace("Disagreement", "Disagree\u00adment"))));
      const bodies = list.map((setting, i) => {
        const name = describe(setting);
        if (!known.has(name)) known.set(name, solve(setting));
        const { sgd, sam } = known.get(name);
        return element("tbody", {},
          element("tr", {}, element("th", { scope: "rowgroup", colspan: 4 }, element("div", {}, element("span", {}, name),
            button("Restore", () => ui.change(settingOf(setting)), { "aria-label": `Restore ${name}` }),
            button("Remove", () => ui.change({ kept: list.filter((_, k) => k !== i) }), { "aria-label": `Remove ${name}` })))),
          element("tr", {}, ...MEASURES.map((m) => element("td", {}, `${decimals(sgd[m], 4)} \u2192 ${decimals(sam[m], 4)}`))));
      });
      kept.replaceChildren(
        element("table", {}, element("caption", {}, "Kept settings, SGD \u2192 SAM"), element("thead", {}, head), ...bodies));
    }
    return ui.close;
  };
}

function describe({ rho, degree, n_typical, n_atypical, n_blue, atypical_x, atypical_y, spread, seed }) {
  const place = `(${decimals(atypical_x, 2)}, ${decimals(atypical_y, 2)}) \u00b1 ${spread.toFixed(2)}`;
  return `\u03c1 ${rho.toFixed(2)} \u00b7 degree ${degree} \u00b7 ${n_typical} + ${n_atypical} + ${n_blue} \u00b7 at ${place} \u00b7 seed ${seed}`;
}

function sentence(setting, { sgd, sam, bayes }) {
  const share = (value) => `${(100 * value).toFixed(1)} %`;
  return `${setting.n_typical} typical and ${setting.n_atypical} atypical red points and ${setting.n_blue} blue points, ` +
    `the atypical cluster at (${decimals(setting.atypical_x, 2)}, ${decimals(setting.atypical_y, 2)}), with three decision boundaries. ` +
    `Test error: SGD ${share(sgd.error)}, SAM ${share(sam.error)}, Bayes ${share(bayes.error)}. ` +
    `Atypical accuracy: SGD ${share(sgd.atypical_accuracy)}, SAM ${share(sam.atypical_accuracy)}. ` +
    `Attacker's advantage: SGD ${share(sgd.advantage)}, SAM ${share(sam.advantage)}.`;
}

// ---- the picture

// Layers from back to front. SAM is drawn thinner than SGD, so that equal boundaries show both.
function layers(svg) {
  const group = (name) => shape("g", { class: `samlib-${name}` });
  const marks = { axes: group("axes"), red: group("density samlib-red"), blue: group("density samlib-blue") };
  marks.handle = shape("g", { class: "samlib-handle" },
    ...(marks.rings = [shape("circle", { class: "samlib-reach" }), shape("circle", { class: "samlib-ring" }), path("arrows")]));
  for (const name of ["typical", "atypical", "blues", "casing", "bayes", "sgd", "sam"]) marks[name] = path(name);
  svg.append(marks.axes, marks.red, marks.blue, marks.handle, marks.blues, marks.typical, marks.atypical, marks.casing, marks.sgd,
    marks.sam, marks.bayes);
  return marks;
}

function drawPicture(marks, svg, setting, { sample, mixture, sgd, sam }, cache, width) {
  const s = scales(width, VIEW.aspect, VIEW.x, VIEW.y), lines = (values, level) => contour(values, GRID.x, GRID.y, level, s.x, s.y);
  if (cache.picture?.width !== width) cache.picture = backdrop(mixture, s, lines);
  const { axes, red, blue, bayes } = cache.picture;
  if (marks.shown !== cache.picture) {
    resize(svg, s.width, s.height);
    marks.axes.replaceChildren(...axes);
    marks.red.replaceChildren(...red);
    marks.blue.replaceChildren(...blue);
    marks.bayes.setAttribute("d", bayes);
    const x = s.x(setting.atypical_x), y = s.y(setting.atypical_y), radius = s.x(setting.spread) - s.x(0);
    marks.rings.forEach((ring) => ring.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`));
    marks.rings[0].setAttribute("r", Math.max(24, 1.5 * radius));
    marks.rings[1].setAttribute("r", Math.max(14, 2 * radius));
    marks.rings[2].setAttribute("d", "M-9 0H9M0-9V9M-6-3L-9 0L-6 3M6-3L9 0L6 3M-3-6L0-9L3-6M-3 6L0 9L3 6");
    marks.shown = cache.picture;
  }
  const dots = ["", "", ""], pen = [() => "h0", () => "m-3.5 0h7m-3.5-3.5v7", () => "m-2.2 0a2.2 2.2 0 1 0 4.4 0a2.2 2.2 0 1 0-4.4 0"];
  for (let i = 0; i < sample.n; i++) {
    const c = sample.cluster[i];
    dots[c] += `M${s.x(sample.x[2 * i]).toFixed(1)} ${s.y(sample.x[2 * i + 1]).toFixed(1)}${pen[c]()}`;
  }
  [marks.typical, marks.atypical, marks.blues].forEach((mark, c) => mark.setAttribute("d", dots[c]));
  const grid = new Float64Array(GRID.x.length * GRID.y.length);
  for (const [name, fit] of [["sgd", sgd], ["sam", sam]])
    marks[name].setAttribute("d", lines(scoreGrid(fit.weights, GRID.x, GRID.y, grid), 0));
  marks.casing.setAttribute("d", marks.sgd.getAttribute("d") + marks.sam.getAttribute("d"));
}

// What moves only with the mixture: axes, density contours of both classes, the Bayes boundary.
function backdrop(mixture, s, lines) {
  const size = GRID.x.length * GRID.y.length;
  const red = new Float64Array(size), blue = new Float64Array(size), ratio = new Float64Array(size);
  let at = 0;
  for (const x of GRID.x)
    for (const y of GRID.y) {
      red[at] = Math.exp(logJoint(mixture, 0, x, y)) + Math.exp(logJoint(mixture, 1, x, y));
      blue[at] = Math.exp(logJoint(mixture, 2, x, y));
      ratio[at++] = logRatio(mixture, x, y);
    }
  const contours = (density) => LEVELS.map((level) => shape("path", { d: lines(density, level) }));
  const ticks = [];
  for (let x = -3; x <= 4; x++) ticks.push(shape("line", { x1: s.x(x), x2: s.x(x), y1: 0, y2: s.height }));
  for (let y = -2; y <= 2; y++) ticks.push(shape("line", { x1: 0, x2: s.width, y1: s.y(y), y2: s.y(y) }));
  const label = (x, y, text) => shape("text", { x, y }, minus(String(text)));
  for (let x = -2; x <= 4; x += 2) ticks.push(label(s.x(x) + 3, s.height - 5, x));
  for (let y = -2; y <= 2; y += 2) ticks.push(label(4, s.y(y) - 4, y));
  return { width: s.width, axes: ticks, red: contours(red), blue: contours(blue), bayes: lines(ratio, 0) };
}

function legend() {
  const key = (name, text, d) => entry(text, path(name, { d }));
  return element("ul", { class: "samlib-legend" },
    key("sgd", "SGD", "M1 7H25"), key("sam", "SAM", "M1 7H25"), key("bayes", "Bayes", "M1 7H25"),
    key("typical", "typical red", "M13 7h0"), key("atypical", "atypical red (drag the ring)", "M9 7h8m-4-4v8"),
    key("blues", "blue", "M10.8 7a2.2 2.2 0 1 0 4.4 0a2.2 2.2 0 1 0-4.4 0"));
}

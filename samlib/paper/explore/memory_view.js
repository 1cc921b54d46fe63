// The explorer of memorization: the same draw under SGD and SAM, side by side, and means over the three clusters.

const SIGHT = { x: [-3.6, 3.9], y: [-2.3, 2.4], aspect: 1.5 };
const MESH = {
  x: Float64Array.from({ length: 151 }, (_, i) => SIGHT.x[0] + i / 20),
  y: Float64Array.from({ length: 95 }, (_, i) => SIGHT.y[0] + i / 20),
};
const SLICE = 12; // milliseconds of work in a frame
const SIDE_BY_SIDE = 560; // pixels; else one above the other
const KINDS = ["samlib-remembered samlib-red", "samlib-remembered samlib-red samlib-rare", "samlib-remembered samlib-blue"];

function memoryExplorer(controls) {
  return ({ model, el }) => {
    const ui = panel({ model, el }, { name: "memory", controls, paint });
    const numbers = ["Memorized, mean", "Exposed to LiRA, mean AUC"].map((title) =>
      table(title, ["", headed("SGD"), headed("SAM"), "SAM \u2212 SGD"], GROUPS));
    const halves = ["sgd", "sam"].map((name) => {
      const parts = { points: shape("g"), line: path(name),
        title: shape("text", { x: 8, y: 18, class: "samlib-title" }, name.toUpperCase()) };
      parts.group = shape("g", {}, parts.points, parts.line, parts.title);
      return parts;
    });
    ui.svg.append(...halves.map((half) => half.group));
    ui.root.append(
      element("div", { class: "samlib-show" }, ui.frame, key()),
      element("div", { class: "samlib-controls" }, ui.group("Fit and draw")),
      element("div", { class: "samlib-numbers" }, ...numbers.map((one) => one.node),
        ui.buttons()),
      ui.status);

    let work, place, frame = 0;
    function paint(setting, width) {
      cancelAnimationFrame(frame);
      work = remember(setting);
      const beside = width >= SIDE_BY_SIDE, s = scales(beside ? Math.floor(width / 2) - 4 : width, SIGHT.aspect, SIGHT.x, SIGHT.y);
      const height = beside ? s.height : 2 * s.height + 8;
      resize(ui.svg, width, height);
      halves[1].group.setAttribute("transform", beside ? `translate(${s.width + 8} 0)` : `translate(0 ${s.height + 8})`);
      place = s;
      return advance();
    }

    // A slice of the work in each frame, so that the picture never waits for all of it.
    function advance() {
      const until = performance.now() + SLICE;
      let step;
      do step = work.next();
      while (!step.done && performance.now() < until);
      if (!step.done) frame = requestAnimationFrame(() => ui.svg.setAttribute("aria-label", advance()));
      return show(step.value);
    }

    function show({ sample, sgd, sam }) {
      const both = [sgd, sam].map((fit) => ({ ...fit, exposure: Float64Array.from(fit.memorization, (_, i) => fit.exposureOf(i)) }));
      halves.forEach(({ points, line }, o) => {
        points.replaceChildren(...dots(sample, both[o], place));
        const grid = new Float64Array(MESH.x.length * MESH.y.length);
        line.setAttribute("d", contour(scoreGrid(both[o].weights, MESH.x, MESH.y, grid), MESH.x, MESH.y, 0, place.x, place.y));
      });
      const means = ["memorization", "exposure"].map((what) => GROUPS.map((_, c) => both.map((fit) => mean(fit[what], sample, c))));
      means.forEach((rows, t) => rows.forEach(([first, second], c) => {
        const shown = [decimals(first, 3), decimals(second, 3), signed(second - first, 3)];
        shown.forEach((text, k) => (numbers[t].cells[c][k].textContent = sample.counts[c] ? text : "\u2013"));
      }));
      const say = (rows, c) => `SGD ${rows[c][0].toFixed(3)}, SAM ${rows[c][1].toFixed(3)}`;
      const told = [1, 0].filter((c) => sample.counts[c]).map((c) =>
        ` ${GROUPS[c]}: memorized ${say(means[0], c)}; exposed ${say(means[1], c)}.`);
      return `The same draw under SGD and under SAM, with ${sample.counts[1]} atypical points.${told.join("")}`;
    }
    return () => {
      cancelAnimationFrame(frame);
      ui.close();
    };
  };
}

// A larger marker is more exposed, a darker one more memorized.
function dots({ x, cluster, n }, { memorization, exposure }, s) {
  return Array.from({ length: n }, (_, i) => shape("circle", {
    class: KINDS[cluster[i]], cx: s.x(x[2 * i]).toFixed(1), cy: s.y(x[2 * i + 1]).toFixed(1),
    r: (2 + 18 * Math.max(0, exposure[i] - 0.5)).toFixed(1), "fill-opacity": Math.max(0, memorization[i]).toFixed(3),
  }));
}

function mean(values, { cluster, counts }, c) {
  return values.reduce((sum, value, i) => sum + (cluster[i] === c ? value : 0), 0) / counts[c];
}

function key() {
  const dot = (name, text, more) => entry(text, shape("circle", { class: name, cx: 13, cy: 12, ...more }), 24);
  return element("ul", { class: "samlib-legend" },
    dot(KINDS[0], "typical red", { r: 4, "fill-opacity": 0 }), dot(KINDS[1], "atypical red", { r: 4, "fill-opacity": 0 }),
    dot(KINDS[2], "blue", { r: 4, "fill-opacity": 0 }), dot(KINDS[0], "more memorized", { r: 4, "fill-opacity": 1 }),
    dot(KINDS[0], "more exposed", { r: 10, "fill-opacity": 0 }));
}

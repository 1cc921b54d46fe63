// What all explorers share: elements, labelled sliders bound to the model's traits, a picture in CSS pixels, number formats.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  return append(attribute(node, attributes), children);
}

function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  return append(attribute(node, attributes), children);
}

function attribute(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  return node;
}

function append(node, children) {
  node.append(...children);
  return node;
}

const path = (name, more = {}) => shape("path", { class: `samlib-${name}`, ...more });
const resize = (svg, width, height) => attribute(svg, { viewBox: `0 0 ${width} ${height}`, width, height });

// An entry of a legend: a picture of the mark, and what it means.
const entry = (text, mark, height = 14) => element("li", {}, shape("svg", { width: 26, height, "aria-hidden": "true" }, mark), text);

// The name of a rule at the head of a column, underlined as its line is drawn.
const headed = (name, who = name.toLowerCase()) => element("span", { class: `samlib-mark-${who}` }, name);

const minus = (text) => text.replace("-", "\u2212");
const decimals = (value, digits) => (Number.isFinite(value) ? minus(value.toFixed(digits)) : value > 0 ? "\u221e" : "\u2212\u221e");
const signed = (value, digits) => (value.toFixed(digits) > 0 ? "+" : "") + decimals(Number(value.toFixed(digits)) || 0, digits);

const button = (text, onclick, extra = {}) => element("button", { type: "button", onclick, ...extra }, text);

// A number of any size: fixed while that shows three digits, else a power of ten.
function compact(value) {
  if (!Number.isFinite(value) || value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1000)) return decimals(value, 3);
  const [digits, power] = value.toExponential(1).split("e");
  return `${minus(digits)}\u00d710${[...minus(String(Number(power)))].map((c) => "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[c] ?? "\u207b").join("")}`;
}

const places = (control) => (String(control.step).split(".")[1] ?? "").length;

// A value moved into a control's range and onto its steps.
function onto(control, value) {
  const stepped = control.min + Math.round((value - control.min) / control.step) * control.step;
  return Number(Math.min(control.max, Math.max(control.min, stepped)).toFixed(places(control)));
}

// The shell of an explorer. Calls `paint(setting)` once per frame at most, after any trait in `controls` or `extra` changed.
function panel({ model, el }, { name, controls, extra = [], paint }) {
  const unique = `samlib-${name}-${Math.random().toString(36).slice(2, 8)}`;
  const inputs = {}, sliders = {};
  for (const control of controls) {
    const id = `${unique}-${control.name}`;
    const { min, max, step } = control;
    const input = element("input", { type: "range", id, name: control.name, min, max, step });
    // The slider says its own value; `output` would say it again at each step.
    const output = element("output", { for: id, "aria-live": "off" });
    const set = () => change({ [control.name]: Number(input.value) });
    input.addEventListener("input", set);
    inputs[control.name] = { input, output, control };
    sliders[control.name] = element("div", { class: "samlib-slider" }, element("label", { for: id }, control.label), output, input);
  }
  const group = (title, names = Object.keys(sliders)) =>
    element("fieldset", {}, element("legend", {}, title), ...names.map((one) => sliders[one]));
  const read = () => Object.fromEntries([...controls.map((c) => c.name), ...extra].map((trait) => [trait, model.get(trait)]));
  function change(values) {
    for (const [trait, value] of Object.entries(values)) model.set(trait, value);
    model.save_changes();
  }

  const svg = shape("svg", { role: "img", class: "samlib-picture" });
  const frame = element("div", { class: "samlib-frame" }, svg);
  const status = element("p", { class: "samlib-hidden", role: "status", "aria-live": "polite" });
  let waiting = 0, speaking = 0;
  function refresh() {
    waiting = 0;
    if (!frame.clientWidth) return; // not on the page yet; the observer calls again
    const setting = read();
    for (const { input, output, control } of Object.values(inputs)) {
      input.value = setting[control.name];
      output.textContent = decimals(setting[control.name], places(control));
    }
    const sentence = paint(setting, frame.clientWidth);
    svg.setAttribute("aria-label", sentence);
    clearTimeout(speaking); // a screen reader hears where a slider came to rest, not each step on its way
    speaking = setTimeout(() => (status.textContent = svg.getAttribute("aria-label")), 600);
  }
  const schedule = () => (waiting ||= requestAnimationFrame(refresh));
  const traits = [...controls.map((c) => c.name), ...extra];
  for (const trait of traits) model.on(`change:${trait}`, schedule);
  const observer = new ResizeObserver(schedule);
  observer.observe(frame);

  // An explorer's own buttons, then those that all have; a link where the page's address is ours.
  const first = Object.fromEntries(controls.map((control) => [control.name, model.opening?.[control.name] ?? control.default]));
  const buttons = (...own) => element("p", { class: "samlib-buttons" }, ...own, button("Start over", () => change(first)),
    ...(model.link ? [button("Copy link", copy)] : []));
  async function copy({ currentTarget: pressed }) {
    const link = model.link();
    const copied = await navigator.clipboard?.writeText(link).then(() => true, () => false);
    pressed.textContent = status.textContent = copied ? "Link copied" : "The link is in the address bar";
    setTimeout(() => (pressed.textContent = "Copy link"), 2000);
  }

  // Drag `handle`: calls move(x, y) with the pointer in CSS pixels of the picture.
  function draggable(handle, move) {
    const follow = (event) => {
      const box = svg.getBoundingClientRect();
      move(event.clientX - box.left, event.clientY - box.top);
    };
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.setPointerCapture(event.pointerId);
      handle.addEventListener("pointermove", follow);
    });
    for (const end of ["pointerup", "pointercancel"])
      handle.addEventListener(end, () => handle.removeEventListener("pointermove", follow));
  }

  const root = element("div", { class: "samlib-grid" }); // inside its container, whose width the style asks for
  el.append(element("section", { class: `samlib-explorer samlib-${name}`, "aria-label": `${name} explorer` }, root));
  const close = () => {
    observer.disconnect();
    cancelAnimationFrame(waiting);
    clearTimeout(speaking);
    for (const trait of traits) model.off(`change:${trait}`, schedule);
  };
  return { root, svg, frame, status, sliders, group, buttons, read, change, draggable, close };
}

// Pixels of data coordinates on a picture of this width; `aspect` is width / height.
function scales(width, aspect, [left, right], [bottom, top]) {
  const height = Math.round(width / aspect);
  return {
    width,
    height,
    x: (value) => ((value - left) / (right - left)) * width,
    y: (value) => ((top - value) / (top - bottom)) * height,
    fromX: (pixel) => left + (pixel / width) * (right - left),
    fromY: (pixel) => top - (pixel / height) * (top - bottom),
  };
}

// A table with one header row and one header column; returns it with its cells, cells[row][column].
function table(caption, columns, rows) {
  const cells = rows.map(() => columns.slice(1).map(() => element("td")));
  const head = element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column)));
  const body = rows.map((row, i) => element("tr", {}, element("th", { scope: "row" }, row), ...cells[i]));
  const node = element("table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...body));
  return { node, cells };
}

// The explorer of examples: what SGD and SAM memorize of each, and the picture of the one that is pointed at or chosen.

const TILE = 112, REACH = 24; // pixels: a shown picture's side, and how near a pointer is to a point that it means

function examplesExplorer([slider]) {
  return ({ model, el }) => {
    const points = model.get("points"), { name, index, sgd, sam, pictured, across } = points, n = index.length;
    const ui = panel({ model, el }, { name: "examples", controls: [{ ...slider, max: n }], paint });
    const marks = { axes: shape("g", { class: "samlib-axes" }), diagonal: path("diagonal"), plain: path("dots"), pictured: path("dots samlib-good"),
      ring: shape("circle", { class: "samlib-shown", r: 9 }) };
    ui.svg.append(...Object.values(marks));
    const tile = element("div", { class: "samlib-tile", role: "img" }), words = element("p");
    const example = element("div", { class: "samlib-example" }, ...(pictured ? [tile] : []), words);
    const numbers = table("Memorized", ["", "Score"], ["SGD", name, `${name} \u2212 SGD`]);
    const drawn = n < points.examples
      ? `${n} of ${points.examples} examples are drawn: the ${points.first} that differ most, and of the others a random part.`
      : `All ${n} examples are drawn.`;
    ui.root.append(
      element("div", { class: "samlib-show" }, ui.frame, example, element("ul", { class: "samlib-legend" }, element("li", {}, drawn),
        pictured ? entry(`${pictured} with a picture`, path("dots samlib-good", { d: "M13 7h0" }))
          : element("li", {}, "No pictures: these data are none, or not at hand."))),
      element("div", { class: "samlib-controls" }, ui.sliders.chosen, ui.buttons()),
      element("div", { class: "samlib-numbers" }, numbers.node),
      ui.status);

    const range = [Math.min(0, ...sgd, ...sam) - 0.05, Math.max(0, ...sgd, ...sam) + 0.05];
    let place, chosen = 0;
    function lay(width) {
      const s = (place = scales(width, 1.5, range, range)), [left, right] = range;
      resize(ui.svg, width, s.height);
      marks.diagonal.setAttribute("d", `M${s.x(left)} ${s.y(left)}L${s.x(right)} ${s.y(right)}`);
      const dots = (from, to) => sgd.slice(from, to).map((x, i) => `M${s.x(x).toFixed(1)} ${s.y(sam[from + i]).toFixed(1)}h0`).join("");
      marks.plain.setAttribute("d", dots(pictured, n));
      marks.pictured.setAttribute("d", dots(0, pictured));
      const text = (x, y, said, anchor = "start") => shape("text", { x, y, "text-anchor": anchor }, said), axes = [];
      for (const v of [-0.5, 0, 0.5, 1].filter((v) => v > left && v < right)) {
        axes.push(shape("line", { x1: s.x(v), x2: s.x(v), y1: 0, y2: s.height }), shape("line", { x1: 0, x2: width, y1: s.y(v), y2: s.y(v) }),
          text(s.x(v) + 3, s.height - 5, minus(String(v))), ...(s.y(v) > 36 ? [text(4, s.y(v) - 4, minus(String(v)))] : []));
      }
      marks.axes.replaceChildren(...axes, text(4, 14, `memorized by ${name}`), text(width - 6, s.height - 20, "memorized by SGD", "end"));
    }

    function show(i) {
      if (!n) return "No example has a score.";
      const gap = signed(sam[i] - sgd[i], 3), who = `Example ${index[i]}, class ${points.classes[points.class[i]]}`;
      attribute(marks.ring, { cx: place.x(sgd[i]).toFixed(1), cy: place.y(sam[i]).toFixed(1) });
      words.textContent = `${who}.${i < pictured || !pictured ? "" : " Its picture is not on this page."}`;
      tile.style.visibility = i < pictured ? "visible" : "hidden"; // it keeps its place
      if (i < pictured) {
        tile.setAttribute("aria-label", `Picture of example ${index[i]}`);
        Object.assign(tile.style, { backgroundImage: `url(${points.sheet})`, backgroundSize: `${across * TILE}px ${Math.ceil(pictured / across) * TILE}px`,
          backgroundPosition: `${-(i % across) * TILE}px ${-Math.floor(i / across) * TILE}px` });
      }
      [decimals(sgd[i], 3), decimals(sam[i], 3), gap].forEach((text, k) => (numbers.cells[k][0].textContent = text));
      return `Memorization of ${n} examples under ${name} over that under SGD. ${who}: SGD ${decimals(sgd[i], 3)}, ${name} ${decimals(sam[i], 3)}.`;
    }

    function paint(setting, width) {
      if (place?.width !== width) lay(width);
      if (n && setting.chosen > n) ui.change({ chosen: n }); // a link to another page's examples
      chosen = Math.min(setting.chosen, n) - 1;
      return show(chosen);
    }

    // A pointer shows the point that it is near to; a click or a tap chooses it.
    function point(event) {
      const box = ui.svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      const away = sgd.map((value, i) => Math.hypot(place.x(value) - x, place.y(sam[i]) - y)), nearest = away.indexOf(Math.min(...away));
      if (!(away[nearest] < REACH)) return show(chosen);
      if (event.type === "click") ui.change({ chosen: nearest + 1 });
      show(nearest);
    }
    attribute(ui.svg, { onpointermove: point, onclick: point, onpointerleave: () => show(chosen) });
    return ui.close;
  };
}

// The threshold attacker: two histograms with a line to drag in each, and the ROC curves that the lines walk along.

const BOTH = ["sgd", "sam"], BESIDE = 560, GAP = 10; // pixels

function thresholdExplorer(controls) {
  return ({ model, el }) => {
    const [control] = controls, { edges, name, ...counts } = model.get("logits");
    const titles = { sgd: "SGD", sam: name };
    const ui = panel({ model, el }, { name: "threshold", controls, paint });
    const numbers = table("At this line", ["", headed("SGD"), headed(name, "sam"), `${name} \u2212 SGD`],
      ["Others accused", "Members found", "Found less accused", "Line, as a logit"]);
    let place;
    const halves = BOTH.map((who) => {
      const half = { who, members: path(`mass samlib-mass-${who}`), others: path("outline"), shade: path("accused"), line: path("cut"),
        reach: shape("rect", { class: "samlib-reach samlib-across", width: 36 }), ticks: shape("g", { class: "samlib-axes" }),
        title: shape("text", { x: 10, y: 20, class: "samlib-title" }, titles[who]) };
      half.group = shape("g", {}, half.shade, half.members, half.others, half.ticks, half.title, half.line, half.reach);
      ui.draggable(half.reach, (px) => {
        const logit = edges[0] + (px / place.wide) * (edges.at(-1) - edges[0]);
        ui.change({ fpr: onto(control, accusedAt(edges, counts[who].others, logit)) });
      });
      return half;
    });
    const roc = { frame: path("box"), guess: path("diagonal"), axes: shape("g", { class: "samlib-axes" }),
      curves: BOTH.map((who) => path(`thin samlib-${who}`)), dots: BOTH.map((who) => shape("circle", { r: 6, class: `samlib-dot-${who}` })) };
    roc.group = shape("g", {}, roc.frame, roc.guess, roc.axes, ...roc.curves, ...roc.dots);
    ui.svg.append(...halves.map((half) => half.group), roc.group);
    const key = (kind, text, d) => entry(text, path(kind, { d }));
    ui.root.append(
      element("div", { class: "samlib-show" }, ui.frame, element("ul", { class: "samlib-legend" },
        key("mass samlib-mass-sgd", "members of SGD", "M1 2H25V12H1Z"), key("mass samlib-mass-sam", `members of ${name}`, "M1 2H25V12H1Z"),
        key("outline", "others", "M1 12V4H13V8H25V12"), key("accused", "called members", "M1 1H25V13H1Z"))),
      element("div", { class: "samlib-controls" }, ui.group("The line")),
      element("div", { class: "samlib-numbers" }, numbers.node,
        ui.buttons()),
      ui.status);

    function lay(width) {
      const beside = width >= BESIDE, side = Math.round(beside ? 0.42 * width : width), wide = beside ? width - side - GAP : width;
      const high = beside ? Math.round((side - GAP) / 2) : 150;
      place = { width, wide, high, side, height: beside ? side : 2 * (high + GAP) + side };
      resize(ui.svg, width, place.height);
      roc.group.setAttribute("transform", beside ? `translate(${wide + GAP} 0)` : `translate(0 ${2 * (high + GAP)})`);
      const x = (value) => ((value - edges[0]) / (edges.at(-1) - edges[0])) * wide;
      const tallest = Math.max(...BOTH.flatMap((who) => Object.values(counts[who]).map((c) => Math.max(...c) / c.reduce((a, b) => a + b))));
      const steps = (values) => {
        const total = values.reduce((a, b) => a + b), y = (value) => (high - 18 - (value / total / tallest) * (high - 34)).toFixed(1);
        return values.map((value, i) => `${i ? "V" : `M0 ${high - 18}V`}${y(value)}H${x(edges[i + 1]).toFixed(1)}`).join("");
      };
      const every = [1, 2, 5, 10, 20, 50, 100].find((step) => (x(step) - x(0)) > 44) ?? 200;
      halves.forEach((half, k) => {
        half.group.setAttribute("transform", `translate(0 ${k * (high + GAP)})`);
        half.members.setAttribute("d", `${steps(counts[half.who].members)}V${high - 18}Z`);
        half.others.setAttribute("d", steps(counts[half.who].others));
        const at = Array.from({ length: 400 }, (_, i) => (i - 200) * every).filter((v) => x(v) > 8 && x(v) < wide - 60);
        half.ticks.replaceChildren(shape("line", { x1: 0, x2: wide, y1: high - 18, y2: high - 18 }),
          ...at.map((v) => shape("text", { x: x(v), y: high - 4, "text-anchor": "middle" }, minus(String(v)))),
          shape("text", { x: wide - 4, y: high - 4, "text-anchor": "end" }, "logit"));
        attribute(half.reach, { height: high - 18 });
      });
      const s = rocScales();
      roc.frame.setAttribute("d", `M${s.x(0)} ${s.y(0)}H${s.x(1)}V${s.y(1)}H${s.x(0)}Z`);
      roc.guess.setAttribute("d", `M${s.x(0)} ${s.y(0)}L${s.x(1)} ${s.y(1)}`);
      const text = (x1, y1, said, more = {}) => shape("text", { x: x1, y: y1, "text-anchor": "middle", ...more }, said);
      roc.axes.replaceChildren(text(s.x(0.5), s.y(0) + 30, "others accused"), text(s.x(0), s.y(0) + 15, "0"), text(s.x(1), s.y(0) + 15, "1"),
        text(0, 0, "members found", { transform: `translate(12 ${s.y(0.5)}) rotate(-90)` }), text(s.x(0) - 10, s.y(1) + 10, "1"));
    }
    const rocScales = () => ({ x: (v) => 30 + v * (place.side - 46), y: (v) => place.side - 38 - v * (place.side - 52) });

    function paint({ fpr }, width) {
      if (place?.width !== width) lay(width);
      const both = BOTH.map((who) => attacked(edges, counts[who], fpr)), s = rocScales();
      both.forEach(({ threshold, found, accused, curve }, k) => {
        const at = ((threshold - edges[0]) / (edges.at(-1) - edges[0])) * place.wide, half = halves[k], foot = place.high - 18;
        half.line.setAttribute("d", `M${at} 0V${foot}`);
        half.shade.setAttribute("d", `M${at} 0H${place.wide}V${foot}H${at}Z`);
        half.reach.setAttribute("x", at - 18);
        roc.curves[k].setAttribute("d", curve[0].map((a, i) => `${i ? "L" : "M"}${s.x(a).toFixed(1)} ${s.y(curve[1][i]).toFixed(1)}`).join(""));
        attribute(roc.dots[k], { cx: s.x(accused).toFixed(1), cy: s.y(found).toFixed(1) });
      });
      const [sgd, sam] = both, rows = [(b) => b.accused, (b) => b.found, (b) => b.found - b.accused, (b) => b.threshold];
      rows.forEach((of, i) => {
        const digits = i < 3 ? 3 : 2, texts = [decimals(of(sgd), digits), decimals(of(sam), digits), i < 3 ? signed(of(sam) - of(sgd), digits) : "\u2013"];
        texts.forEach((text, column) => (numbers.cells[i][column].textContent = text));
      });
      return `Histograms of the logit on members and others under SGD and ${name}, each with a line, and both ROC curves. ` +
        `Where ${fpr.toFixed(2)} of the others are accused, SGD's members are found with share ${sgd.found.toFixed(3)}, ${name}'s with ${sam.found.toFixed(3)}.`;
    }
    return ui.close;
  };
}

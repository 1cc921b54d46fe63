// A stand-in for the widget model where there is no kernel: the same get, set, on and off, over plain values. What the reader
// moved stands in the page's address, as #mixture.rho=2&theory.M=1 has it: a link that opens the page as it is.

function standIn(name, controls, values, el) {
  const listeners = {}, opening = { ...values }, all = (window.samlibExplorers ??= []);
  const alike = all.filter((other) => other.name === name).length, own = `${name}${alike ? alike + 1 : ""}.`;
  const moved = () => controls.filter((c) => values[c.name] !== opening[c.name]).map((c) => `${own}${c.name}=${values[c.name]}`);
  all.push({ name, moved });
  function set(trait, value) {
    if (values[trait] === value) return;
    values[trait] = value;
    for (const listener of listeners[`change:${trait}`] ?? []) listener();
  }
  function follow() { // what a link says and a slider can be; nothing else of it
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const control of controls) {
      const text = asked.get(own + control.name)?.trim();
      if (text && Number.isFinite(Number(text))) set(control.name, onto(control, Number(text)));
    }
  }
  let waiting = 0;
  function link() {
    clearTimeout(waiting);
    const parts = all.flatMap((each) => each.moved());
    history.replaceState(history.state, "", location.href.split("#")[0] + (parts.length ? `#${parts.join("&")}` : ""));
    return location.href;
  }
  const model = {
    opening,
    set,
    get: (trait) => values[trait],
    save_changes() {},
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off(event, listener) {
      listeners[event] = (listeners[event] ?? []).filter((other) => other !== listener);
    },
  };
  // In JupyterLab, and in a frame without an address, the address is not this page's.
  if (document.getElementById("jupyter-config-data") || !/^(file|https?):$/.test(location.protocol)) return model;
  follow();
  addEventListener("hashchange", follow);
  if (location.hash.startsWith(`#${own}`)) addEventListener("load", () => el.scrollIntoView());
  // Once a slider rests: browsers refuse an address that changes at each step.
  return Object.assign(model, { link, save_changes: () => (clearTimeout(waiting), (waiting = setTimeout(link, 300))) });
}

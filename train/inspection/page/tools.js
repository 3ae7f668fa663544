// What all widgets share: elements, arrays, colours, texts of tokens, the box beside the pointer.
"use strict";
const inspection = (() => {
  const widgets = {};
  const make = (name, className, ...inside) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.append(...inside);
    return element;
  };
  // An array as {shape, at(...indices), values}.
  const unpack = (packed) => {
    const bytes = Uint8Array.from(atob(packed.base64), (c) => c.charCodeAt(0));
    const values = packed.dtype === "uint8" ? bytes : new Float32Array(bytes.buffer);
    const shape = packed.shape;
    const at = (...indices) => values[indices.reduce((sum, i, axis) => sum * shape[axis] + i, 0)];
    return {shape, values, at};
  };
  const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (c) => c === "\u007f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0)));
  const quoted = (text) => visible(text).replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍");
  const mixed = (color, share) => `color-mix(in srgb, var(--${color}) ${Math.round(100 * Math.min(1, Math.max(0, share)))}%, transparent)`;
  // A colour for a number between low and high; below zero the other colour.
  const shade = (value, low, high) => {
    if (value === null || !Number.isFinite(value)) return "";
    if (low < 0) {
      const most = Math.max(-low, high) || 1;
      return mixed(value < 0 ? "train" : "validation", 0.85 * Math.abs(value) / most);
    }
    return mixed("train", 0.85 * (value - low) / ((high - low) || 1));
  };
  const number = (value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : value.toFixed(size < 10 ? 3 : size < 1000 ? 2 : 0);
  };
  // How the numbers of one table are written, in one manner that its largest size asks for: a small number beside large
  // ones is no wider than they are.
  const numbersUpTo = (most) => {
    const digits = most < 10 ? 3 : most < 1000 ? 2 : 1, powers = most !== 0 && (most < 0.01 || most >= 1e5);
    const written = (value) => powers && value !== 0 ? value.toExponential(1) : value.toFixed(powers ? 0 : digits);
    return (value) => value === null || !Number.isFinite(value) ? "–" : written(value).replace(/^-(0(\.0*)?)$/, "$1");
  };
  // Spans of tokens; a line break is drawn with a sign, so that its colour is seen.
  const tokenSpans = (tokens) => tokens.map((text, index) => {
    const span = make("span");
    span.dataset.index = index;
    for (const part of visible(text).split(/(\n)/)) {
      if (part === "\n") span.append(make("i", "sign", "⏎"), "\n");
      else if (part) span.append(part);
    }
    if (!text) span.append(make("i", "sign", "∅"));
    return span;
  });
  const about = document.getElementById("about");
  const tell = (box, ...rows) => {
    about.replaceChildren();
    for (const row of rows) {
      if (Array.isArray(row)) {
        const table = make("table");
        for (const cells of row) table.append(make("tr", "", ...cells.map((cell) => make("td", "", cell))));
        about.append(table);
      } else about.append(make("div", "", row));
    }
    about.hidden = false;
    const size = about.getBoundingClientRect();
    const below = box.bottom + 8 + size.height < window.innerHeight;
    about.style.left = `${Math.max(6, Math.min(box.left, window.innerWidth - size.width - 6))}px`;
    about.style.top = `${below ? box.bottom + 8 : Math.max(6, box.top - 8 - size.height)}px`;
  };
  const hush = () => { about.hidden = true; };
  document.addEventListener("scroll", hush, {passive: true, capture: true});
  const choice = (words, options, chosen, changed) => {
    const select = make("select");
    options.forEach((option, i) => {
      const entry = make("option", "", option);
      entry.value = i;
      select.append(entry);
    });
    select.value = chosen;
    select.addEventListener("change", () => changed(Number(select.value)));
    return make("label", "", words, select);
  };
  const draw = () => {
    const all = JSON.parse(document.getElementById("data").textContent);
    document.querySelectorAll(".widget").forEach((root, i) => {
      root.replaceChildren();
      widgets[root.dataset.widget](root, all[i]);
    });
  };
  return {widgets, make, unpack, visible, quoted, mixed, shade, number, numbersUpTo, tokenSpans, tell, hush, choice, draw};
})();

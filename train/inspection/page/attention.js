// Attention over a text: choose a layer and a head, point at a token to see the tokens that it attends to.
// Data: tokens, ids, layers (numbers), weights (one packed uint8 (N, T, T) for each layer, squares of roots).
"use strict";
inspection.widgets.attention = (root, data) => {
  const {make, unpack, quoted, mixed, tokenSpans, tell, hush, choice} = inspection;
  const layers = data.weights.map(unpack), length = data.tokens.length;
  let layer = 0, head = 0, held = length - 1, from = true;
  const weight = (query, key) => (layers[layer].at(head, query, key) / 255) ** 2;
  const heads = make("div", "heads"), controls = make("div", "controls");
  controls.append(choice("layer", data.layers.map(String), 0, (i) => { layer = i; head = Math.min(head, layers[i].shape[0] - 1); fillHeads(); paint(); }));
  controls.append(make("label", "", "head", heads));
  controls.append(choice("a token shows", ["the tokens that it attends to", "the tokens that attend to it"], 0, (i) => { from = i === 0; paint(); }));
  const fillHeads = () => {
    heads.replaceChildren();
    for (let h = 0; h < layers[layer].shape[0]; h++) {
      const button = make("button", "", String(h));
      button.type = "button";
      button.setAttribute("aria-pressed", h === head);
      button.addEventListener("click", () => { head = h; fillHeads(); paint(); });
      heads.append(button);
    }
  };
  const text = make("div", "text"), spans = tokenSpans(data.tokens);
  text.append(...spans);
  const side = Math.min(48, Math.max(2, Math.floor(480 / length))), canvas = make("canvas");
  canvas.width = canvas.height = side * length;
  const frame = make("div", "frame", canvas);
  const halves = make("div", "halves", text, frame);
  root.append(controls, halves);
  const color = () => getComputedStyle(document.documentElement).getPropertyValue("--train").trim();
  const paint = () => {
    spans.forEach((span, i) => {
      const value = from ? weight(held, i) : weight(i, held);
      span.style.background = mixed("validation", 0.9 * Math.sqrt(value));
      span.classList.toggle("held", i === held);
    });
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = color();
    for (let query = 0; query < length; query++) for (let key = 0; key < length; key++) {
      const value = weight(query, key);
      if (value < 1e-4) continue;
      pen.globalAlpha = Math.sqrt(value);
      pen.fillRect(key * side, query * side, side, side);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--validation").trim();
    if (from) pen.strokeRect(0.5, held * side + 0.5, canvas.width - 1, Math.max(1, side - 1));
    else pen.strokeRect(held * side + 0.5, 0.5, Math.max(1, side - 1), canvas.height - 1);
  };
  const rows = (index) => [...Array(length).keys()].map((i) => [i, from ? weight(index, i) : weight(i, index)]).sort((a, b) => b[1] - a[1])
    .slice(0, 6).filter(([, value]) => value > 0.001).map(([i, value]) => [`${i}`, make("b", "", quoted(data.tokens[i])), value.toFixed(3)]);
  text.addEventListener("mouseover", (event) => {
    const span = event.target.closest("span[data-index]");
    if (!span) return;
    held = Number(span.dataset.index);
    paint();
    tell(span.getClientRects()[0], make("b", "", quoted(data.tokens[held])), `token ${held}, id ${data.ids[held]}`, rows(held));
  });
  text.addEventListener("mouseleave", hush);
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect(), scale = length / box.width;
    const key = Math.min(length - 1, Math.floor((event.clientX - box.left) * scale)), query = Math.min(length - 1, Math.floor((event.clientY - box.top) * scale));
    if (key < 0 || query < 0) return;
    const point = {left: event.clientX, top: event.clientY, bottom: event.clientY + 6};
    tell(point, make("div", "", make("b", "", quoted(data.tokens[query])), " attends to ", make("b", "", quoted(data.tokens[key]))), `${weight(query, key).toFixed(3)} of token ${query} goes to token ${key}`);
  });
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), scale = length / box.width;
    held = Math.min(length - 1, Math.floor(((from ? event.clientY - box.top : event.clientX - box.left)) * scale));
    paint();
  });
  canvas.addEventListener("mouseleave", hush);
  fillHeads();
  paint();
};

// Attention over a text: choose a layer and a head, point at a token to see the tokens that it attends to.
// Data: tokens, ids, layers (numbers), weights (one packed uint8 (N, T, S) for each layer, squares of roots), heads (their
// numbers, for each layer); source, sourceIds: the tokens that those of the text attend to, where these are others.
"use strict";
inspection.widgets.attention = (root, data) => {
  const {make, unpack, quoted, mixed, tokenSpans, tell, hush, choice} = inspection;
  const layers = data.weights.map(unpack), crossing = Boolean(data.source);
  const queries = data.tokens, keys = crossing ? data.source : queries, keyIds = crossing ? data.sourceIds : data.ids;
  let layer = 0, head = 0, held = queries.length - 1, from = true;
  const weight = (query, key) => (layers[layer].at(head, query, key) / 255) ** 2;
  const heads = make("div", "heads"), controls = make("div", "controls");
  controls.append(choice("layer", data.layers.map(String), 0, (i) => { layer = i; head = Math.min(head, layers[i].shape[0] - 1); fillHeads(); paint(); }));
  controls.append(make("label", "", "head", heads));
  if (!crossing) controls.append(choice("a token shows", ["the tokens that it attends to", "the tokens that attend to it"], 0, (i) => { from = i === 0; paint(); }));
  const fillHeads = () => {
    heads.replaceChildren();
    for (let h = 0; h < layers[layer].shape[0]; h++) {
      const button = make("button", "", String(data.heads[layer][h]));
      button.type = "button";
      button.setAttribute("aria-pressed", h === head);
      button.addEventListener("click", () => { head = h; fillHeads(); paint(); });
      heads.append(button);
    }
  };
  // A token of the text shows the keys that it attends to, one of the source the tokens of the text that attend to it.
  const texts = [[queries, data.ids, true], ...(crossing ? [[keys, keyIds, false]] : [])].map(([tokens, ids, isQuery]) => {
    const text = make("div", "text"), spans = tokenSpans(tokens);
    text.append(...spans);
    return {tokens, ids, isQuery, text, spans};
  });
  const wide = keys.length, high = queries.length;
  const side = Math.min(48, Math.max(2, Math.floor(480 / Math.max(wide, high)))), canvas = make("canvas");
  // Where there is room, the tokens stand beside the map: queries on its left, keys above it.
  const label = (token) => token.replaceAll(" ", "\u2423").replaceAll("\n", "\u21b5").slice(0, 9), letter = 6.7;
  const room = (tokens) => (side < 12 ? 0 : Math.ceil(letter * Math.max(...tokens.map((token) => label(token).length))) + 8);
  const left = room(queries), top = room(keys);
  canvas.width = left + side * wide;
  canvas.height = top + side * high;
  const frame = make("div", "frame", canvas);
  const words = crossing ? make("div", "", make("h3", "", "Text"), texts[0].text, make("h3", "", "Source"), texts[1].text) : texts[0].text;
  root.append(controls, make("div", "halves", words, frame));
  const color = () => getComputedStyle(document.documentElement).getPropertyValue("--train").trim();
  const paint = () => {
    for (const {isQuery, spans} of texts) {
      // The text whose tokens are coloured: that of the held token where both are one, or else the other one.
      const colored = !crossing || isQuery !== from;
      spans.forEach((span, i) => {
        span.style.background = colored ? mixed("validation", 0.9 * Math.sqrt(from ? weight(held, i) : weight(i, held))) : "";
        span.classList.toggle("held", i === held && (!crossing || isQuery === from));
      });
    }
    const pen = canvas.getContext("2d");
    pen.resetTransform();
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (left) writeLabels(pen);
    pen.translate(left, top);
    pen.fillStyle = color();
    for (let query = 0; query < high; query++) for (let key = 0; key < wide; key++) {
      const value = weight(query, key);
      if (value < 1e-4) continue;
      pen.globalAlpha = Math.sqrt(value);
      pen.fillRect(key * side, query * side, side, side);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--validation").trim();
    if (from) pen.strokeRect(0.5, held * side + 0.5, side * wide - 1, Math.max(1, side - 1));
    else pen.strokeRect(held * side + 0.5, 0.5, Math.max(1, side - 1), side * high - 1);
  };
  const writeLabels = (pen) => {
    const style = getComputedStyle(document.documentElement);
    pen.fillStyle = style.getPropertyValue("--muted").trim();
    pen.font = `11px ${style.getPropertyValue("--mono").trim() || "monospace"}`;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    queries.forEach((token, i) => pen.fillText(label(token), left - 5, top + (i + 0.5) * side));
    pen.textAlign = "left";
    keys.forEach((token, i) => {
      pen.setTransform(0, -1, 1, 0, left + (i + 0.5) * side, top - 5);
      pen.fillText(label(token), 0, 0);
    });
    pen.resetTransform();
  };
  const cell = (event) => {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const key = Math.floor(((event.clientX - box.left) * scale - left) / side), query = Math.floor(((event.clientY - box.top) * scale - top) / side);
    return [Math.min(wide - 1, key), Math.min(high - 1, query)];
  };
  const rows = () => (from ? keys : queries).map((token, i) => [i, token, from ? weight(held, i) : weight(i, held)]).sort((a, b) => b[2] - a[2])
    .slice(0, 6).filter(([, , value]) => value > 0.001).map(([i, token, value]) => [`${i}`, make("b", "", quoted(token)), value.toFixed(3)]);
  for (const {tokens, ids, isQuery, text} of texts) {
    text.addEventListener("mouseover", (event) => {
      const span = event.target.closest("span[data-index]");
      if (!span) return;
      held = Number(span.dataset.index);
      if (crossing) from = isQuery;
      paint();
      tell(span.getClientRects()[0], make("b", "", quoted(tokens[held])), `token ${held}, id ${ids[held]}`, rows());
    });
    text.addEventListener("mouseleave", hush);
  }
  canvas.addEventListener("mousemove", (event) => {
    const [key, query] = cell(event);
    if (key < 0 || query < 0) return hush();
    const point = {left: event.clientX, top: event.clientY, bottom: event.clientY + 6};
    tell(point, make("div", "", make("b", "", quoted(queries[query])), " attends to ", make("b", "", quoted(keys[key]))), `${weight(query, key).toFixed(3)} of token ${query} goes to token ${key}${crossing ? " of the source" : ""}`);
  });
  canvas.addEventListener("click", (event) => {
    if (crossing) from = true;
    const at = cell(event)[from ? 1 : 0];
    if (at < 0) return;
    held = at;
    paint();
  });
  canvas.addEventListener("mouseleave", hush);
  fillHeads();
  paint();
};

// Draws the documents of the page: a span for every piece of text, coloured by its loss or by the difference of two.
"use strict";
(() => {
  const {documents, models} = JSON.parse(document.getElementById("data").textContent);
  const two = models.length > 1;
  const MOST = 10, MOST_DIFFERENCE = 3;  // nats at the ends of the colours
  const views = two ? [["difference", "B − A"], ["0", "A"], ["1", "B"]] : [["0", "loss"]];
  let view = views[0][0];

  // The tokens of a piece for a model, as [text, loss] each.
  const tokensOf = (piece, model) => {
    const tokens = piece[model + 1];
    if (tokens === undefined) return [];
    return Array.isArray(tokens) ? tokens : [[piece[0], tokens]];
  };
  // The loss of a piece: the sum over its tokens; null if one was not scored.
  const lossOf = (piece, model) => {
    const tokens = tokensOf(piece, model);
    if (!tokens.length || tokens.some(([, loss]) => loss === null)) return null;
    return tokens.reduce((sum, [, loss]) => sum + loss, 0);
  };
  const mixed = (color, share) => `color-mix(in srgb, var(--${color}) ${Math.round(100 * share)}%, transparent)`;
  const colorOf = (piece) => {
    if (view === "difference") {
      const [a, b] = [lossOf(piece, 0), lossOf(piece, 1)];
      if (a === null || b === null) return "";
      const share = Math.min(1, Math.abs(b - a) / MOST_DIFFERENCE);
      return mixed(b < a ? "train" : "validation", 0.75 * share);
    }
    const loss = lossOf(piece, Number(view));
    return loss === null ? "" : mixed("validation", 0.75 * Math.min(1, Math.max(0, loss) / MOST));
  };
  const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)));
  const quoted = (text) => visible(text).replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  const nats = (loss) => loss === null || loss === undefined ? "not scored" : `${loss.toFixed(3)} nats`;
  const chance = (loss) => loss === null || loss === undefined ? "" : `p ${Math.exp(-loss).toPrecision(3)}`;

  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const spans = [];
  const root = document.getElementById("documents");
  root.replaceChildren();
  for (const doc of documents) {
    const card = make("div", "card");
    const about = doc.shown < doc.tokens ? `the first ${doc.shown.toLocaleString("en")} of ` : "";
    card.append(make("h3", "", doc.name));
    card.append(make("p", "quiet", `${doc.domain ? doc.domain + " · " : ""}${about}${doc.tokens.toLocaleString("en")} tokens`));
    const text = make("div", "text");
    for (const piece of doc.pieces) {
      const span = make("span");
      // A line break is drawn with a sign, so that its colour is seen.
      for (const part of visible(piece[0]).split(/(\n)/)) {
        if (part === "\n") span.append(make("i", "sign", "⏎"), "\n");
        else if (part) span.append(part);
      }
      span.piece = piece;
      spans.push(span);
      text.append(span);
    }
    card.append(text);
    root.append(card);
  }
  const paint = () => { for (const span of spans) span.style.background = colorOf(span.piece); };

  const controls = document.getElementById("controls");
  if (two) {
    for (const [value, words] of views) {
      const label = make("label"), input = make("input");
      Object.assign(input, {type: "radio", name: "view", value, checked: value === view});
      input.addEventListener("change", () => { view = value; paint(); drawLegend(); });
      label.append(input, value === "difference" ? "difference B − A" : `loss of ${words}`);
      controls.append(label);
    }
  }
  const legend = make("span", "legend");
  controls.append(legend);
  const drawLegend = () => {
    const bar = make("i");
    if (view === "difference") {
      bar.style.background = `linear-gradient(90deg, ${mixed("train", 0.75)}, transparent, ${mixed("validation", 0.75)})`;
      legend.replaceChildren(`B better by ${MOST_DIFFERENCE} nats`, bar, `A better by ${MOST_DIFFERENCE} nats`);
    } else {
      bar.style.background = `linear-gradient(90deg, transparent, ${mixed("validation", 0.75)})`;
      legend.replaceChildren("0 nats", bar, `${MOST} and more; tokens without a colour were not scored`);
    }
  };

  const about = document.getElementById("about");
  let held = null;
  const tell = (event) => {
    const span = event.target.closest && event.target.closest(".text span");
    if (held && held !== span) held.classList.remove("held");
    held = span;
    if (!span) { about.hidden = true; return; }
    about.replaceChildren();
    const several = models.some((_, model) => tokensOf(span.piece, model).length > 1);
    if (several) about.append(make("b", "", quoted(span.piece[0])));
    const table = make("table");
    models.forEach((_, model) => {
      const tokens = tokensOf(span.piece, model);
      for (const [text, loss] of tokens) {
        const row = make("tr");
        if (two) row.append(make("td", "", "AB"[model]));
        const name = make("td");
        name.append(make("b", "", quoted(text)));
        row.append(name, make("td", "", nats(loss)), make("td", "", chance(loss)));
        table.append(row);
      }
      if (tokens.length > 1) {
        const row = make("tr");
        if (two) row.append(make("td", "", "AB"[model]));
        row.append(make("td", "", "together"), make("td", "", nats(lossOf(span.piece, model))));
        table.append(row);
      }
    });
    if (two && lossOf(span.piece, 0) !== null && lossOf(span.piece, 1) !== null) {
      const row = make("tr"), change = lossOf(span.piece, 1) - lossOf(span.piece, 0);
      row.append(make("td"), make("td", "", "B − A"), make("td", "", `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(3)} nats`));
      table.append(row);
    }
    about.append(table);
    about.hidden = false;
    const box = span.getClientRects()[0], size = about.getBoundingClientRect();
    const below = box.bottom + 6 + size.height < window.innerHeight;
    about.style.left = `${Math.max(6, Math.min(box.left, window.innerWidth - size.width - 6))}px`;
    about.style.top = `${below ? box.bottom + 6 : box.top - 6 - size.height}px`;
  };
  root.addEventListener("mouseover", tell);
  root.addEventListener("click", tell);
  root.addEventListener("mouseleave", () => { about.hidden = true; });
  document.addEventListener("scroll", () => { about.hidden = true; }, {passive: true});
  paint();
  drawLegend();
})();

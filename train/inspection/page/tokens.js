// Texts in coloured pieces, one or two readings side by side. Data: readings: [{name, words, pieces: [[text, ids, token
// texts], ...]}, ...].
"use strict";
inspection.widgets.tokens = (root, data) => {
  const {make, quoted, tokenSpans, tell, hush} = inspection;
  const halves = make("div", "halves");
  const letters = data.readings.length > 1 ? ["A: ", "B: "] : [""];
  data.readings.forEach((reading, number) => {
    const text = make("div", "text");
    tokenSpans(reading.pieces.map(([piece]) => piece)).forEach((span, index) => {
      span.style.background = `hsl(${(index * 137.5) % 360} 70% 60% / .32)`;
      if (reading.pieces[index][1].length > 1) span.style.textDecoration = "underline dotted";
      text.append(span);
    });
    text.addEventListener("mouseover", (event) => {
      const span = event.target.closest("span[data-index]");
      if (!span) return;
      const [piece, ids, tokens] = reading.pieces[span.dataset.index];
      const rows = ids.map((id, i) => [make("b", "", quoted(tokens[i])), `id ${id}`]);
      tell(span.getClientRects()[0], make("b", "", quoted(piece)), `${new TextEncoder().encode(piece).length} bytes`, rows);
    });
    text.addEventListener("mouseleave", hush);
    halves.append(make("div", "", make("h3", "", letters[number] + reading.name), make("p", "quiet", reading.words), text));
  });
  root.append(halves);
};

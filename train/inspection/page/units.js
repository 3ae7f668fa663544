// Features or neurons, one at a time. Data: word ("feature"); units: number, density, largest, counts (edges, counts),
// promoted and suppressed ([text, logit] pairs, may be empty), examples (tokens, activations, peak).
"use strict";
inspection.widgets.units = (root, data) => {
  const {make, quoted, mixed, number, tokenSpans, tell, hush} = inspection;
  const picks = make("div", "heads"), shown = make("div");
  const buttons = data.units.map((unit, i) => {
    const button = make("button", "", String(unit.number));
    button.type = "button";
    button.title = `${(100 * unit.density).toPrecision(2)}% of tokens, at most ${number(unit.largest)}`;
    button.addEventListener("click", () => show(i));
    picks.append(button);
    return button;
  });
  root.append(picks, shown);
  const bars = ({edges, counts}) => {
    if (!counts.length) return make("p", "quiet", "It never fires in these texts.");
    const most = Math.log1p(Math.max(...counts)), row = make("div", "bins");
    counts.forEach((count) => {
      const bar = make("i");
      bar.style.height = `${count ? Math.max(2, 56 * Math.log1p(count) / most) : 0}px`;
      bar.title = `${count.toLocaleString("en")} tokens`;
      row.append(bar);
    });
    const ends = make("div", "quiet ends", make("span", "", number(edges[0])), make("span", "", number(edges[1])));
    return make("div", "", row, ends);
  };
  const logits = (title, pairs) => {
    const table = make("table");
    for (const [text, value] of pairs) table.append(make("tr", "", make("td", "code", quoted(text)), make("td", "right", number(value))));
    return make("div", "", make("h3", "", title), table);
  };
  const show = (i) => {
    const unit = data.units[i];
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", k === i));
    shown.replaceChildren();
    const density = unit.density > 0 ? `fires at ${(100 * unit.density).toPrecision(3)}% of tokens` : "fires at no token";
    shown.append(make("h3", "unit-title", `${data.word} ${unit.number}: ${density}, at most ${number(unit.largest)}`));
    const top = make("div", "thirds", make("div", "", make("h3", "", "Activations above 0"), bars(unit.counts)));
    if (unit.promoted.length) top.append(logits("Promotes", unit.promoted), logits("Suppresses", unit.suppressed));
    shown.append(top, make("h3", "", "Top texts"));
    if (!unit.examples.length) shown.append(make("p", "quiet", "None."));
    for (const example of unit.examples) {
      const text = make("div", "text example");
      tokenSpans(example.tokens).forEach((span, k) => {
        const value = example.activations[k];
        span.style.background = value === 0 ? "" : mixed(value > 0 ? "train" : "validation", 0.85 * Math.abs(value) / (unit.largest || 1));
        if (k === example.peak) span.classList.add("held");
        span.addEventListener("mouseenter", () => tell(span.getBoundingClientRect(), `${quoted(example.tokens[k])}  ${number(value)}`));
        span.addEventListener("mouseleave", hush);
        text.append(span);
      });
      shown.append(text);
    }
  };
  if (data.units.length) show(0);
};

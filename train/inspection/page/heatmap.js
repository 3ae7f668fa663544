// A table of numbers as colours. Data: rows, columns (labels), values (packed float32, (rows, columns) or with views
// (views, rows, columns)); views: names; turned: whether labels of columns stand upright; low, high: ends of colours;
// rowName, columnName: what they are, for the corner; texts: the text of each cell, in place of its number; notes: a text for each cell, or null.
"use strict";
inspection.widgets.heatmap = (root, data) => {
  const {make, unpack, quoted, visible, shade, number, numbersUpTo, tell, hush, choice} = inspection;
  const array = unpack(data.values), several = array.shape.length === 3;
  let view = 0;
  const at = (r, c) => several ? array.at(view, r, c) : array.at(r, c);
  const controls = make("div", "controls"), table = make("table", "map"), legend = make("span", "legend");
  if (several && data.views.length > 1) controls.append(choice(data.viewName || "", data.views, 0, (i) => { view = i; paint(); }));
  controls.append(legend);
  const names = [[data.rowName, "\u2193"], [data.columnName, "\u2192"]].filter(([name]) => name);
  const corner = make("td", "corner", names.map((pair) => pair.join(" ")).join("  "));
  const head = make("tr", data.turned ? "turned" : "", corner);
  data.columns.forEach((name) => head.append(make("th", "", quoted(String(name)))));
  table.append(make("thead", "", head));
  const body = make("tbody"), cells = [];
  data.rows.forEach((name, r) => {
    const row = make("tr", "", make("th", "", visible(String(name))));
    data.columns.forEach((_, c) => {
      const cell = make("td");
      cell.dataset.row = r;
      cell.dataset.column = c;
      cells.push([cell, r, c]);
      row.append(cell);
    });
    body.append(row);
  });
  table.append(body);
  root.append(controls, make("div", "scroll", table));
  const paint = () => {
    const values = cells.map(([, r, c]) => at(r, c)).filter(Number.isFinite);
    const low = data.low ?? Math.min(...values), high = data.high ?? Math.max(...values);
    const wide = data.columns.length <= 16, written = numbersUpTo(Math.max(0, ...values.map(Math.abs)));
    for (const [cell, r, c] of cells) {
      const value = at(r, c);
      cell.style.background = shade(value, low, high);
      cell.textContent = data.texts ? quoted(data.texts[r][c]) : wide ? written(value) : "";
    }
    const bar = make("i");
    bar.style.background = low < 0 ? `linear-gradient(90deg, ${shade(low, low, high)}, transparent, ${shade(high, low, high)})` : `linear-gradient(90deg, ${shade(low, low, high)}, ${shade(high, low, high)})`;
    legend.replaceChildren(number(low), bar, number(high));
  };
  table.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("td[data-row]");
    if (!cell) return;
    const r = Number(cell.dataset.row), c = Number(cell.dataset.column);
    const words = data.notes ? data.notes[several ? view : 0]?.[r]?.[c] : null;
    tell(cell.getBoundingClientRect(), make("div", "", `${data.rowName || ""} `, make("b", "", visible(String(data.rows[r]))), ` · ${data.columnName || ""} `, make("b", "", quoted(String(data.columns[c])))), number(at(r, c)), ...(words ? [words] : []));
  });
  table.addEventListener("mouseleave", hush);
  paint();
};

// Points with labels in the plane, one picture for each step. Data: labels, kinds (a number for each point), kindNames,
// steps (texts), points (packed float32 (steps, points, 2)).
"use strict";
inspection.widgets.scatter = (root, data) => {
  const {make, unpack, quoted, tell, hush} = inspection;
  const points = unpack(data.points), count = data.labels.length, side = 860, edge = 30;
  let step = data.steps.length - 1;
  // Both axes have one scale, and the same ends at all steps.
  const ends = [0, 1].map((axis) => {
    const values = [...Array(data.steps.length * count).keys()].map((n) => points.at(Math.floor(n / count), n % count, axis)).filter(Number.isFinite);
    return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  });
  const scale = (side - 2 * edge) / Math.max(...ends.map(([low, high]) => high - low), 1e-9);
  const height = Math.max(160, 2 * edge + scale * (ends[1][1] - ends[1][0]));
  const controls = make("div", "controls"), canvas = make("canvas"), frame = make("div", "frame", canvas);
  canvas.width = side * 2;
  canvas.height = height * 2;
  canvas.style.width = `${side}px`;
  canvas.style.imageRendering = "auto";
  const shown = make("span", "quiet", data.steps[step]);
  if (data.steps.length > 1) {
    const slider = make("input");
    Object.assign(slider, {type: "range", min: 0, max: data.steps.length - 1, value: step});
    slider.addEventListener("input", () => { step = Number(slider.value); shown.textContent = data.steps[step]; paint(); });
    controls.append(make("label", "", "step", slider), shown);
  }
  const color = (kind) => `hsl(${(kind * 137.5 + 205) % 360} 65% 48%)`;
  data.kindNames.forEach((name, kind) => {
    const sign = make("i");
    Object.assign(sign.style, {background: color(kind), width: "11px"});
    controls.append(make("span", "legend", sign, name));
  });
  const place = (i) => [edge + scale * (points.at(step, i, 0) - ends[0][0]), height - edge - scale * (points.at(step, i, 1) - ends[1][0])];
  const paint = () => {
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.setTransform(2, 0, 0, 2, 0, 0);
    pen.clearRect(0, 0, side, height);
    pen.font = "11px ui-monospace, Menlo, Consolas, monospace";
    const taken = [];
    for (let i = 0; i < count; i++) {
      const [x, y] = place(i);
      pen.fillStyle = color(data.kinds[i]);
      pen.globalAlpha = 0.85;
      pen.beginPath();
      pen.arc(x, y, 2.6, 0, 7);
      pen.fill();
      // A label is written where no other one is.
      const text = quoted(data.labels[i]), width = pen.measureText(text).width;
      if (taken.every(([a, b, w]) => Math.abs(b - y) > 11 || x + width + 6 < a || x > a + w + 6)) {
        taken.push([x, y, width]);
        pen.fillStyle = style.getPropertyValue("--ink").trim();
        pen.fillText(text, x + 4, y + 3.5);
      }
    }
    pen.globalAlpha = 1;
  };
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect(), zoom = side / box.width;
    const x = (event.clientX - box.left) * zoom, y = (event.clientY - box.top) * zoom;
    let best = null;
    for (let i = 0; i < count; i++) {
      const [a, b] = place(i), apart = Math.hypot(a - x, b - y);
      if (apart < 12 && (best === null || apart < best[1])) best = [i, apart];
    }
    if (!best) { hush(); return; }
    tell({left: event.clientX, top: event.clientY, bottom: event.clientY + 6}, make("b", "", quoted(data.labels[best[0]])), data.kindNames[data.kinds[best[0]]]);
  });
  canvas.addEventListener("mouseleave", hush);
  root.append(controls, frame);
  paint();
};

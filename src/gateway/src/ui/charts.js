// Lines over time, as SVG made by hand. The figure under the pointer, or under the arrow keys, is said in words with its unit.

import { h, patch, s } from "./dom.js";
import { duration, figure, moment } from "./format.js";

const HEIGHT = 132;
const MARGIN = { top: 8, right: 8, bottom: 18, left: 60 };
const WIDTH_LEAST = 220;

// A chart. `lines` are [{ name, kind }], `write` says a value in words where a unit behind it is not enough.
// `draw(points, from, to)` takes points { at_ms, values } by time, each value a number or null; null breaks a line.
export function chart({ title, unit, lines, write }) {
  const said = write ?? ((value) => (unit ? `${figure(value)} ${unit}` : figure(value)));
  const svg = s("svg", { role: "img", tabindex: "0", height: HEIGHT, class: "chart", "aria-label": title });
  const readout = h("p", { class: "readout" });
  const node = h(
    "figure",
    { class: "figure" },
    h("figcaption", {}, title, unit ? h("span", { class: "quiet" }, `, ${unit}`) : null),
    svg,
    readout,
  );
  let drawn = null;
  let at = null;

  const draw = (points, fromMs, toMs) => {
    drawn = { points, fromMs, toMs };
    redraw();
  };

  const redraw = () => {
    if (!drawn || !node.isConnected) {
      return;
    }
    const width = Math.max(WIDTH_LEAST, Math.floor(svg.parentElement.clientWidth));
    svg.setAttribute("width", width);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const scale = scaled(drawn, lines.length, width, write === duration ? TIMES : TENS);
    const cursor = at === null || !drawn.points[at] ? null : s("line", { class: "cursor", x1: scale.x(drawn.points[at].at_ms), x2: scale.x(drawn.points[at].at_ms), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
    svg.replaceChildren(...axes(scale, width, write ?? figure), ...lines.map((line, index) => s("path", { class: `line ${line.kind}`, d: path(drawn.points, index, scale) })), ...(cursor ? [cursor] : []));
    svg.setAttribute("aria-label", summary(title, lines, drawn.points, said));
    tell();
  };

  const tell = () => {
    const { points } = drawn;
    const index = at ?? points.length - 1;
    const point = points[index];
    if (!point) {
      patch(readout, h("span", { class: "quiet" }, "Nothing was measured in this time."));
      return;
    }
    patch(
      readout,
      lines.map((line, number) => h("span", { key: line.name, class: "key" }, h("i", { class: `swatch ${line.kind}`, "aria-hidden": "true" }), `${line.name} `, h("b", {}, point.values[number] === null ? "–" : said(point.values[number])))),
      h("span", { class: "quiet" }, at === null ? "latest" : moment(point.at_ms)),
    );
  };

  const point = (index) => {
    at = index;
    redraw();
  };

  svg.addEventListener("pointermove", (event) => {
    if (drawn?.points.length > 0) {
      const box = svg.getBoundingClientRect();
      const scale = scaled(drawn, lines.length, box.width);
      point(nearest(drawn.points, scale.time(event.clientX - box.left)));
    }
  });
  svg.addEventListener("pointerleave", () => point(null));
  svg.addEventListener("blur", () => point(null));
  svg.addEventListener("keydown", (event) => {
    const last = (drawn?.points.length ?? 0) - 1;
    const to = { ArrowLeft: (at ?? last) - 1, ArrowRight: (at ?? last) + 1, Home: 0, End: last }[event.key];
    if (to !== undefined && last >= 0) {
      event.preventDefault();
      point(Math.max(0, Math.min(last, to)));
    }
  });
  const resized = new ResizeObserver(() => redraw());
  resized.observe(node);
  return { node, draw, close: () => resized.disconnect() };
}

// What an axis may end with: round numbers, and round times in ms.
const TENS = [1, 2, 4, 5, 10];
const TIMES = [2_000, 4_000, 10_000, 20_000, 40_000, 60_000, 120_000, 240_000, 600_000, 1_200_000, 3_600_000, 7_200_000, 14_400_000, 28_800_000, 86_400_000, 172_800_000, 345_600_000];

function scaled({ points, fromMs, toMs }, lines, width, steps = TENS) {
  let most = 0;
  for (const { values } of points) {
    for (let index = 0; index < lines; index += 1) {
      most = Math.max(most, values[index] ?? 0);
    }
  }
  const top = round(most, steps);
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const length = Math.max(1, toMs - fromMs);
  return {
    top,
    fromMs,
    toMs,
    x: (atMs) => (MARGIN.left + ((atMs - fromMs) / length) * inner.width).toFixed(1),
    y: (value) => (MARGIN.top + (1 - value / top) * inner.height).toFixed(1),
    time: (x) => fromMs + ((x - MARGIN.left) / inner.width) * length,
  };
}

// The next number above that is round.
function round(most, steps) {
  if (most <= 0) {
    return 1;
  }
  if (steps === TIMES && most > 1_000 && most <= TIMES.at(-1)) {
    return TIMES.find((step) => step >= most);
  }
  const size = 10 ** Math.floor(Math.log10(most));
  return TENS.map((step) => step * size).find((step) => step >= most) ?? 10 * size;
}

function axes(scale, width, said) {
  const marks = [0, scale.top / 2, scale.top].flatMap((value) => [
    s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: scale.y(value), y2: scale.y(value) }),
    s("text", { class: "axis", x: MARGIN.left - 6, y: Number(scale.y(value)) + 4, "text-anchor": "end" }, said(value)),
  ]);
  const back = duration(scale.toMs - scale.fromMs);
  return [
    ...marks,
    s("text", { class: "axis", x: MARGIN.left, y: HEIGHT - 4 }, `${back} ago`),
    s("text", { class: "axis", x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, "now"),
  ];
}

function path(points, index, scale) {
  // A hole is wider than what lies between most points.
  const gap = 2.5 * typicalStep(points);
  let text = "";
  let before = null;
  for (const { at_ms: atMs, values } of points) {
    const value = values[index];
    if (value === null || value === undefined) {
      before = null;
      continue;
    }
    const broken = before === null || atMs - before > gap;
    text += `${broken ? "M" : "L"}${scale.x(atMs)} ${scale.y(value)}`;
    if (broken) {
      // A point alone is seen too.
      text += `l0.01 0`;
    }
    before = atMs;
  }
  return text;
}

function typicalStep(points) {
  const steps = points.slice(1).map((point, index) => point.at_ms - points[index].at_ms).sort((a, b) => a - b);
  return steps[Math.floor(steps.length / 2)] ?? 1;
}

function nearest(points, atMs) {
  let best = 0;
  points.forEach((point, index) => {
    if (Math.abs(point.at_ms - atMs) < Math.abs(points[best].at_ms - atMs)) {
      best = index;
    }
  });
  return best;
}

function summary(title, lines, points, said) {
  if (points.length === 0) {
    return `${title}: nothing was measured`;
  }
  const each = lines.map((line, index) => {
    const values = points.map((point) => point.values[index]).filter((value) => value !== null && value !== undefined);
    return values.length === 0 ? `${line.name}: not known` : `${line.name}: ${said(values.at(-1))} now, ${said(Math.max(...values))} at most`;
  });
  return `${title}. ${each.join("; ")}. Arrow keys go through the points.`;
}

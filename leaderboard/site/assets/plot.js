"use strict";
// A scatter of recall against bytes or milliseconds with its frontier; pointing at a mark tells what it is.

const FAMILIES = ["scalar", "binary", "codebook", "projection", "sparse", "composite", "rows"];
const SHAPES = [ // one per family and one for the rest: told apart without colour, about equal in area
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-3.6,-3.6h7.2v7.2h-7.2z", "M0,-5L4.7,3.4H-4.7z", "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
  "M0,5L4.7,-3.4H-4.7z", "M-1.6,-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
  "M-4.8,-2.6h9.6v5.2h-9.6z", "M0,-5.4L1.6,-1.7L5.3,-1.7L2.4,0.9L3.4,4.7L0,2.5L-3.4,4.7L-2.4,0.9L-5.3,-1.7L-1.6,-1.7z",
];
const hueOf = (family) => (FAMILIES.includes(family) ? FAMILIES.indexOf(family) : FAMILIES.length);
const NEAR = 24; // pixels within which a mark is pointed at

const pointsOf = (board, entries, x) => entries
  .filter((entry) => entry.recall && entry[x] > 0)
  .map((entry) => ({
    x: entry[x], y: entry.recall[0], low: entry.recall[1], high: entry.recall[2], label: entry.label, entry,
    family: facetOf(board, entry, "family"), href: pageOf(board, entry.method),
    says: `${entry.name}: recall@10 ${recallOf(entry.recall)}, ${bytesOf(entry.bytes)} bytes per item, ${msOf(entry.ms)} ms per query`,
  }));

function ticksOf(low, high, binary) {
  const steps = [];
  for (let power = -20; power < 40; power += 1) {
    for (const step of binary ? [2 ** power] : [10 ** power, 2 * 10 ** power, 5 * 10 ** power]) steps.push(step);
  }
  const first = Math.max(steps.findLastIndex((step) => step <= low), 0);
  const last = steps.findIndex((step) => step >= high && step > steps[first]);
  return steps.slice(first, last + 1).map((step) => Number(step.toPrecision(6)));
}

// No point is both further left and higher.
function frontierOf(points) {
  let best = -Infinity;
  return [...points].sort((a, b) => a.x - b.x || b.y - a.y).filter((point) => {
    const better = point.y > best;
    best = Math.max(best, point.y);
    return better;
  });
}

// strong tells which marks stand out; without it, those of the frontier do.
function plotInto(place, { title, axis, binary, points, strong }) {
  const frontier = frontierOf(points);
  if (!points.length) return;
  const held = new Set(frontier);
  const stands = strong ?? ((point) => held.has(point));
  const across = ticksOf(Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x)), binary);
  const floor = Math.min(...points.map((point) => point.low));
  const step = floor < 0.5 ? 0.2 : floor < 0.8 ? 0.1 : floor < 0.9 ? 0.05 : 0.02;
  const base = Math.max(0, Math.floor(floor / step) * step);
  const told = make("p", { class: "told", "aria-live": "polite" });
  const hint = "Point at a mark, or reach the figure by Tab and step through it by the arrow keys; Enter opens the method.";
  const canvas = make("div", {});
  const families = [...new Set(points.map((point) => point.family))].sort((a, b) => hueOf(a) - hueOf(b));
  const chosen = new Set();
  const legend = make("ul", { class: "legend" }, families.map((family) => {
    const mark = draw("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true", class: `hue${hueOf(family)}` },
      draw("path", { d: SHAPES[hueOf(family)] }));
    const button = make("button", { type: "button", "aria-pressed": "false" }, mark, family);
    button.addEventListener("click", () => {
      if (!chosen.delete(family)) chosen.add(family);
      button.setAttribute("aria-pressed", chosen.has(family));
      show();
    });
    return make("li", {}, button);
  }));
  let width = 0;

  function show() {
    const height = Math.round(Math.max(240, Math.min(380, width * 0.62)));
    const frame = { left: 40, right: width - 20, top: 14, bottom: height - 38 };
    const [first, last] = [Math.log(across[0]), Math.log(across.at(-1))];
    const xOf = (x) => frame.left + (Math.log(x) - first) / (last - first) * (frame.right - frame.left);
    const yOf = (y) => frame.bottom - (y - base) / (1 - base) * (frame.bottom - frame.top);
    const every = Math.ceil(across.length / Math.max(2, Math.floor(width / 45)));
    const up = Array.from({ length: Math.round((1 - base) / step) + 1 }, (_, at) => base + at * step);
    const grid = [
      ...up.flatMap((y) => [
        draw("line", { class: "grid", x1: frame.left, x2: frame.right, y1: yOf(y), y2: yOf(y) }),
        draw("text", { x: frame.left - 6, y: yOf(y) + 4, "text-anchor": "end" }, y.toFixed(step < 0.1 ? 2 : 1))]),
      ...across.filter((_, at) => at % every === 0).map((x) =>
        draw("text", { x: xOf(x), y: frame.bottom + 16, "text-anchor": "middle" }, `${x}`)),
      draw("text", { x: (frame.left + frame.right) / 2, y: height - 4, "text-anchor": "middle" }, axis),
    ];
    const corners = frontier.flatMap((point, at) => [
      ...(at ? [[xOf(point.x), yOf(frontier[at - 1].y)]] : []), [xOf(point.x), yOf(point.y)]]);
    corners.push([frame.right, yOf(frontier.at(-1).y)]);
    const stair = draw("polyline", { class: "frontier", points: corners.map((at) => at.map((v) => v.toFixed(1)).join()).join(" ") });
    const shown = points.filter((point) => !chosen.size || chosen.has(point.family))
      .sort((a, b) => stands(a) - stands(b) || a.x - b.x);
    const marks = shown.map((point) => draw("a", {
      href: point.href, tabindex: "-1", "aria-label": point.says,
      class: `mark hue${hueOf(point.family)}${stands(point) ? " strong" : ""}`,
    },
      draw("line", { x1: xOf(point.x), x2: xOf(point.x), y1: yOf(point.low), y2: yOf(point.high) }),
      draw("path", { d: SHAPES[hueOf(point.family)], transform: `translate(${xOf(point.x).toFixed(1)} ${yOf(point.y).toFixed(1)})` })));
    const svg = draw("svg", {
      viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `${title}. ${points.length} marks; ${hint}`,
    }, grid, stair, labels(shown, xOf, yOf, frame), marks);
    canvas.replaceChildren(svg);
    told.textContent = hint;
    steps(svg, shown, marks, xOf, yOf);
  }

  // Each method of the frontier is named once, above and left of it, where no mark can lie; at the left edge, below it.
  function labels(shown, xOf, yOf, frame) {
    const taken = new Map();
    const named = frontier.filter((one) => shown.includes(one)).map((point) => {
      const text = point.label.length > 20 ? `${point.label.slice(0, 19)}…` : point.label;
      return { text, wide: text.length * 6.4, x: xOf(point.x), y: yOf(point.y) };
    });
    const put = ({ text, wide }, left, y) => {
      const free = left > frame.left && left + wide < frame.right && y < frame.bottom && [...taken.values()].every((other) =>
        left > other.left + other.wide || left + wide < other.left || Math.abs(y - other.y) > 11);
      if (free && !taken.has(text)) taken.set(text, { left, y, wide });
    };
    for (const one of named) put(one, one.x - 6 - one.wide, one.y - 5);
    for (const one of named) if (one.x - 6 - one.wide <= frame.left) put(one, one.x + 7, one.y + 14);
    return [...taken].map(([text, { left, y, wide }]) =>
      draw("text", { class: "name", x: left + wide, y, "text-anchor": "end", "aria-hidden": "true" }, text));
  }

  function steps(svg, shown, marks, xOf, yOf) {
    const order = shown.map((_, at) => at).sort((a, b) => shown[a].x - shown[b].x || shown[b].y - shown[a].y);
    let current = null;
    const point = (at) => {
      if (current !== null) marks[current].classList.remove("on");
      current = at;
      if (at === null) return;
      marks[at].classList.add("on");
      told.textContent = shown[at].says;
    };
    if (marks.length) marks[order[0]].setAttribute("tabindex", "0");
    marks.forEach((mark, at) => mark.addEventListener("focus", () => point(at)));
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const from = order.indexOf(marks.indexOf(document.activeElement));
      if (by === undefined || from < 0) return;
      event.preventDefault();
      const to = order[Math.min(Math.max(from + by, 0), order.length - 1)];
      marks[order[from]].setAttribute("tabindex", "-1");
      marks[to].setAttribute("tabindex", "0");
      marks[to].focus();
    });
    const nearest = (event) => {
      const at = svg.getBoundingClientRect();
      const away = shown.map((one) => Math.hypot(xOf(one.x) - event.clientX + at.left, yOf(one.y) - event.clientY + at.top));
      const least = away.reduce((best, value, index) => (value < away[best] ? index : best), 0);
      return away[least] <= NEAR ? least : null;
    };
    svg.addEventListener("pointermove", (event) => point(nearest(event)));
    svg.addEventListener("pointerleave", () => point(null));
    svg.addEventListener("click", (event) => {
      if (event.target.closest("a") === null && nearest(event) !== null) location.href = shown[nearest(event)].href;
    });
  }

  place.append(canvas, told, legend);
  new ResizeObserver(() => {
    const wide = Math.round(canvas.clientWidth);
    if (wide && wide !== width) {
      width = wide;
      show();
    }
  }).observe(canvas);
}

"use strict";
// The paired comparison of two methods, from the outcomes of single queries.
const STEPS = 240, RESAMPLES = 2000, LEVEL = 0.95; // steps: as the data is written

// A loop of 32 bits: the same figures each time a page is opened (mulberry32, T. Ettinger, 2017).
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// The percentile interval of the mean difference under resampling of queries, as on the boards.
function pairedOf(a, b) {
  const differences = Array.from(a, (value, at) => (value - b[at]) / STEPS);
  const n = differences.length, random = randomFrom(1);
  const means = Float64Array.from({ length: RESAMPLES }, () => {
    let sum = 0;
    for (let draws = 0; draws < n; draws += 1) sum += differences[Math.floor(random() * n)];
    return sum / n;
  }).sort();
  const quantile = (share) => {
    const at = share * (RESAMPLES - 1), below = Math.floor(at);
    return means[below] + (at - below) * (means[Math.min(below + 1, RESAMPLES - 1)] - means[below]);
  };
  return {
    differences, mean: differences.reduce((sum, one) => sum + one, 0) / n,
    low: quantile((1 - LEVEL) / 2), high: quantile((1 + LEVEL) / 2),
    wins: differences.filter((one) => one > 0).length, losses: differences.filter((one) => one < 0).length,
  };
}

const loading = new Map();
function outcomesOf(board) {
  if (!loading.has(board.key)) {
    loading.set(board.key, new Promise((done, failed) => {
      const script = make("script", { src: `${root}data/${board.key}-queries.js` });
      script.addEventListener("load", () => done(packbench.packed.get(board.key)));
      script.addEventListener("error", () => failed(new Error("the outcomes of single queries are missing beside this page")));
      document.head.append(script);
    }).then((packed) => {
      const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      return new Response(stream).arrayBuffer();
    }).then((plain) => new Uint8Array(plain)));
  }
  return loading.get(board.key);
}

function histogramOf({ differences }, a, b) {
  const tenths = differences.map((one) => Math.round(one * 10));
  const reach = Math.max(3, ...tenths.map(Math.abs)), wide = 32, height = 150, width = (2 * reach + 1) * wide;
  const bins = Array.from({ length: 2 * reach + 1 }, (_, at) => tenths.filter((one) => one === at - reach).length);
  const most = Math.max(...bins), tall = (count) => count / most * (height - 16);
  const shareOf = (at) => `${at < reach ? "−" : ""}${(Math.abs(at - reach) / 10).toFixed(1)}`;
  const told = bins.map((count, at) => (count ? `${shareOf(at)}: ${count}` : null)).filter(Boolean).join("; ");
  return make("figure", {}, make("figcaption", {}, `Queries by the difference of recall@10, ${a} less ${b}`),
    draw("svg", {
      viewBox: `0 0 ${width} ${height + 36}`, width, role: "img", "aria-label": `Queries by difference. ${told}`,
    },
      bins.map((count, at) => [
        draw("rect", { class: at > reach ? "won" : at < reach ? "lost" : "tied", x: at * wide + 2, width: wide - 4,
          y: height - tall(count), height: tall(count) }),
        count ? draw("text", { x: (at + 0.5) * wide, y: height - tall(count) - 3, "text-anchor": "middle" }, `${count}`) : null,
        draw("text", { x: (at + 0.5) * wide, y: height + 15, "text-anchor": "middle" }, shareOf(at)),
      ]),
      draw("line", { class: "grid", x1: 0, x2: width, y1: height, y2: height }),
      draw("text", { x: 4, y: height + 33 }, `← ${b} better`),
      draw("text", { x: width - 4, y: height + 33, "text-anchor": "end" }, `${a} better →`)));
}

{
  const form = document.getElementById("compare"), place = document.getElementById("compared");
  const { board: boards, budget: budgets, a: left, b: right } = form.elements;
  const held = new URLSearchParams(location.hash.slice(1));
  const chosen = () => packbench.boards.find((one) => one.key === boards.value);
  const able = () => chosen().entries.filter((entry) =>
    entry.row >= 0 && (entry.b === null || entry.b === Number(budgets.value)));
  const named = (entry) => (entry.b === null ? `${entry.label} at its own size` : entry.label);

  // Options are replaced and what was chosen is kept, where it is still offered.
  function offer(select, texts, wanted) {
    select.replaceChildren(...texts.map((text) => make("option", { value: text }, text)));
    if (texts.includes(wanted)) select.value = wanted;
  }
  function methods(a, b) {
    const names = able().filter((entry) => entry.b !== null).concat(able().filter((entry) => entry.b === null)).map(named);
    offer(left, names, a ?? names[0]);
    offer(right, names, b ?? names[1]);
  }
  async function show() {
    const [a, b] = [left.value, right.value].map((text) => able().find((entry) => named(entry) === text));
    if (!a || !b) {
      place.replaceChildren(make("p", { class: "note" }, "Nothing was measured at this budget."));
      return;
    }
    const board = chosen();
    history.replaceState(null, "", `#${new URLSearchParams({ board: board.key, budget: budgets.value, a: left.value, b: right.value })}`);
    let table;
    try {
      table = await outcomesOf(board);
    } catch (error) {
      place.replaceChildren(make("p", { class: "note" }, error.message));
      return;
    }
    if (left.value !== named(a) || right.value !== named(b) || board !== chosen()) return; // chosen anew meanwhile
    const rowOf = (entry) => table.subarray(entry.row * board.queries, (entry.row + 1) * board.queries);
    const found = pairedOf(rowOf(a), rowOf(b));
    const verdict = found.low > 0 ? "A is better" : found.high < 0 ? "B is better" : "they cannot be told apart here";
    const side = (letter, entry) => make("tr", {}, make("th", { scope: "row" }, letter),
      make("td", {}, make("a", { href: pageOf(board, entry.method) }, make("code", {}, entry.name))),
      make("td", { class: "number" }, recallOf(entry.recall)), make("td", { class: "number" }, bytesOf(entry.bytes)),
      make("td", { class: "number" }, msOf(entry.ms)));
    const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;
    place.replaceChildren(
      make("p", { class: "verdict" }, make("b", {}, signed(found.mean)), ` [${signed(found.low)}, ${signed(found.high)}] recall@10, A less B: ${verdict}`),
      make("p", { class: "counts" }, `${found.wins} wins, ${board.queries - found.wins - found.losses} ties, ${
        found.losses} losses of A over ${board.queries} queries`),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The two methods" }, make("table", {},
        make("thead", {}, make("tr", {}, ["", "configuration", "recall@10 [95%]", "B/item", "p50 ms"].map((heading, at) =>
          make("th", { scope: "col", class: at > 1 ? "number" : null }, heading)))),
        make("tbody", {}, side("A", a), side("B", b)))),
      histogramOf(found, "A", "B"),
      make("p", { class: "sizes" }, `Paired bootstrap over queries, ${RESAMPLES} resamples, ${LEVEL * 100}%; seeds are averaged per query first. `
        + "One comparison, not corrected for many; the letters of a board are."));
  }
  function budgetsOf(wanted) { offer(budgets, chosen().budgets.map(String), wanted); }
  if (packbench.boards.some((one) => one.key === held.get("board"))) boards.value = held.get("board");
  budgetsOf(held.get("budget") ?? "64");
  methods(held.get("a"), held.get("b"));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target === boards) budgetsOf(budgets.value);
    if (event.target === boards || event.target === budgets) methods(left.value, right.value);
    show();
  });
  show();
}

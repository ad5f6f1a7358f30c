"use strict";
// The board of one budget: two frontiers, the ranked rows, and what is not among them.
{
  const place = document.getElementById("board");
  const board = packbench.boards.find((one) => one.key === place.dataset.key);
  const budget = Number(place.dataset.budget);
  const here = board.entries.filter((entry) => entry.b === budget);
  const ranked = here.filter((entry) => entry.cells), references = board.entries.filter((entry) => entry.b === null);
  const absent = [...here, ...references].filter((entry) => !entry.cells);
  const link = (entry) => make("a", { href: pageOf(board, entry.method) }, make("code", {}, entry.name));
  const facet = (name) => ({ name, of: (entry) => facetOf(board, entry, name) });

  const figures = make("div", { class: "beside" });
  for (const [axis, binary, x, of, strong] of [
    ["bytes per item (log scale), all budgets", true, "bytes", board.entries, (point) => point.entry.b === budget],
    ["milliseconds per query, median (log scale), this budget", false, "ms", [...ranked, ...references], undefined],
  ]) {
    const points = pointsOf(board, of, x);
    if (!points.length) continue;
    const place = make("figure", {}, make("figcaption", {}, `recall@10 against ${axis.replace(" (log scale)", "")}`));
    figures.append(place);
    plotInto(place, { title: `recall@10 against ${axis}`, axis, binary, points, strong });
  }
  place.append(figures);

  const columns = board.columns.map(([key, heading, meaning, numeric], at) => ({
    key, heading, meaning, numeric: numeric === 1, text: key === "spec" ? (entry) => entry.name : (entry) => entry.cells[at],
    node: key === "spec" ? link : undefined,
  }));
  columns.push(...board.facets.map((name) => ({
    key: name, heading: name, meaning: `${name}: sort by it, or filter above`, numeric: false, text: facet(name).of,
  })));
  const table = tableOf(`${board.name}, ${budget} bytes per item`, columns, ranked, references.filter((entry) => entry.cells));
  if (ranked.length) {
    place.append(filtersOf(ranked, (entry) => `${entry.name} ${entry.label}`, board.facets.map(facet), table.show));
  }
  place.append(table.node);

  if (absent.length) {
    const lost = tableOf("Not on this board", [
      { key: "spec", heading: "method", text: (entry) => entry.name, node: link },
      { key: "status", heading: "status", text: (entry) => entry.status },
      { key: "reason", heading: "reason", text: (entry) => entry.reason },
    ], absent);
    place.append(make("h2", {}, `Not on this board: ${absent.length}`), lost.node);
  }
}

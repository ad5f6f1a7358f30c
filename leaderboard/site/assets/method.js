"use strict";
// All results of one method, with the command that measures each again.
{
  const place = document.getElementById("method");
  const name = place.dataset.method;
  const rows = packbench.boards.flatMap((board) =>
    board.entries.filter((entry) => entry.method === name).map((entry) => ({ board, entry })));
  const column = (row, key) => row.entry.cells?.[row.board.columns.findIndex(([of]) => of === key)] ?? "–";
  const budget = (row) => (row.entry.b === null ? "own size" : `${row.entry.b}`);

  const figures = make("div", { class: "beside" });
  for (const board of packbench.boards) {
    const figure = make("figure", {}, make("figcaption", {}, `${board.name}: this method among all`));
    if (!rows.some((row) => row.board === board && row.entry.recall)) continue;
    figures.append(figure);
    plotInto(figure, {
      title: `${board.name}: recall@10 against bytes per item`, axis: "bytes per item (log scale)", binary: true,
      points: pointsOf(board, board.entries, "bytes"), strong: (point) => point.entry.method === name,
    });
  }
  place.append(figures);

  const shown = tableOf(`Results of ${name}`, [
    { key: "data", heading: "data set", text: (row) => row.board.name },
    { key: "budget", heading: "budget", meaning: "bytes per item", numeric: true, text: budget,
      node: (row) => (row.entry.b === null ? "own size" : make("a", { href: boardOf(row.board, row.entry.b) }, budget(row))) },
    { key: "rank", heading: "#", meaning: "rank and group", numeric: true, text: (row) => column(row, "rank") },
    { key: "spec", heading: "configuration", meaning: "what was measured", text: (row) => row.entry.name,
      node: (row) => make("code", {}, row.entry.name) },
    { key: "recall", heading: "recall@10 [95%]", numeric: true, text: (row) => column(row, "recall") },
    { key: "bytes", heading: "B/item", numeric: true, text: (row) => column(row, "deployed_bytes") },
    { key: "ms", heading: "p50 ms", numeric: true, text: (row) => column(row, "p50_ms") },
    { key: "speedup", heading: "vs float32", numeric: true, text: (row) => column(row, "speedup") },
    { key: "reason", heading: "status", text: (row) => (row.entry.status ? `${row.entry.status}: ${row.entry.reason}` : "ok") },
    { key: "command", heading: "measure it again", text: (row) => `${row.board.run} ${row.entry.run}`,
      node: (row) => make("code", {}, `${row.board.run} ${row.entry.run}`) },
  ], rows);
  const filters = filtersOf(rows, (row) => `${row.entry.name} ${row.board.name}`, [
    { name: "data set", of: (row) => row.board.name }, { name: "budget", of: budget },
    { name: "status", of: (row) => row.entry.status ?? "ok" },
  ], shown.show);
  place.append(make("h2", {}, "Results"), filters, shown.node);
}

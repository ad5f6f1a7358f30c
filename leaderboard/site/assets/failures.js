"use strict";
{
  const rows = packbench.boards.flatMap((board) =>
    board.entries.filter((entry) => entry.status).map((entry) => ({ board, entry })));
  const budget = (row) => (row.entry.b === null ? "own size" : `${row.entry.b}`);
  const shown = tableOf("Results without figures", [
    { key: "data", heading: "data set", text: (row) => row.board.name },
    { key: "budget", heading: "budget", meaning: "bytes per item", numeric: true, text: budget },
    { key: "spec", heading: "method", text: (row) => row.entry.name,
      node: (row) => make("a", { href: pageOf(row.board, row.entry.method) }, make("code", {}, row.entry.name)) },
    { key: "status", heading: "status", text: (row) => row.entry.status },
    { key: "reason", heading: "reason", text: (row) => row.entry.reason },
  ], rows);
  document.getElementById("failures").append(filtersOf(rows, (row) => `${row.entry.name} ${row.entry.reason}`, [
    { name: "data set", of: (row) => row.board.name }, { name: "budget", of: budget },
    { name: "status", of: (row) => row.entry.status },
    { name: "family", of: (row) => facetOf(row.board, row.entry, "family") },
  ], shown.show), shown.node);
}

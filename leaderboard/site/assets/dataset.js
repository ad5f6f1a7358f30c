"use strict";
// What each method did over all budgets of a data set.
{
  const place = document.getElementById("dataset");
  const board = packbench.boards.find((one) => one.key === place.dataset.key);
  const figure = make("figure", { class: "wide" }, make("figcaption", {}, "recall@10 against bytes per item, all budgets"));
  place.append(figure);
  plotInto(figure, {
    title: `${board.name}: recall@10 against bytes per item`, axis: "bytes per item (log scale)", binary: true,
    points: pointsOf(board, board.entries, "bytes"),
  });
  const [headings, rows] = board.summary;
  if (rows.length) {
    const columns = headings.map((heading, at) => ({
      key: at ? "" : "spec", heading, text: (row) => row[at], numeric: /^(B for|area)/.test(heading),
      node: at ? undefined : (row) => make("code", {}, row[0]),
    }));
    const table = tableOf(`${board.name}, over all budgets`, columns, rows);
    place.append(make("h2", {}, "Over all budgets"), filtersOf(rows, (row) => row[0], [], table.show), table.node);
  }
}

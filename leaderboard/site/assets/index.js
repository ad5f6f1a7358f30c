"use strict";
for (const board of packbench.boards) {
  const place = document.querySelector(`[data-frontier="${board.key}"]`);
  if (place) {
    plotInto(place, {
      title: `${board.name}: recall@10 against bytes per item`, axis: "bytes per item (log scale)", binary: true,
      points: pointsOf(board, board.entries, "bytes"),
    });
  }
}

"use strict";
for (const table of document.querySelectorAll("table.figures")) {
  const heads = [...table.querySelectorAll("thead th")];
  const body = table.querySelector("tbody.ranked");
  const text = (row, at) => row.cells[at].textContent;
  const sorted = (rows, at, sign) => {
    const value = (row) => row.cells[at].dataset.value;
    return rows.sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === undefined && y === undefined) return sign * text(a, at).localeCompare(text(b, at));
      if (x === undefined || y === undefined) return x === undefined ? 1 : -1; // no figure: last either way
      return sign * (x - y);
    });
  };
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...sorted([...body.rows], at, down ? -1 : 1));
  }));
}
for (const figure of document.querySelectorAll("figure")) {
  const keys = [...figure.querySelectorAll(".legend button")];
  keys.forEach((key) => key.addEventListener("click", () => {
    key.setAttribute("aria-pressed", key.getAttribute("aria-pressed") !== "true");
    const on = new Set(keys.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => one.dataset.line));
    figure.classList.toggle("chosen", on.size > 0);
    for (const line of figure.querySelectorAll(".line")) line.classList.toggle("on", on.has(line.dataset.line));
  }));
}

"use strict";
// A table whose columns sort and whose rows are filtered by text and by what they have in common.

// Figures are sorted as they are shown; what holds none comes last either way.
const figure = (text) => Number(text.replaceAll(",", "").match(/-?\d+(\.\d+)?/)?.[0] ?? NaN);

function compared(left, right, numeric, sign) {
  if (!numeric) return sign * left.localeCompare(right, "en", { numeric: true });
  const [x, y] = [figure(left), figure(right)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return sign * (x - y);
}

// columns: [{ heading, meaning, numeric, key, text(row), node(row) }]; fixed rows stay below, unsorted and unfiltered.
function tableOf(label, columns, rows, fixed = []) {
  const line = (row) => make("tr", {}, columns.map((column) => make(
    column.key === "spec" ? "th" : "td",
    { class: `${column.key}${column.numeric ? " number" : ""}`, scope: column.key === "spec" ? "row" : null },
    column.node ? column.node(row) : column.text(row),
  )));
  const lines = new Map(rows.map((row) => [row, line(row)]));
  const body = make("tbody", {});
  let shown = rows, order = null;
  const fill = () => {
    const sorted = order === null ? shown : [...shown].sort((a, b) =>
      compared(order.column.text(a), order.column.text(b), order.column.numeric, order.sign));
    body.replaceChildren(...sorted.map((row) => lines.get(row)));
  };
  const heads = columns.map((column) => {
    const button = make("button", { type: "button", title: column.meaning }, column.heading);
    const head = make("th", { scope: "col", class: column.numeric ? "number" : null }, button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      order = { column, sign: up ? 1 : -1 };
      fill();
    });
    return head;
  });
  fill();
  const node = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    make("table", { class: "figures" }, make("thead", {}, make("tr", {}, heads)), body,
      fixed.length ? make("tbody", { class: "references" }, fixed.map(line)) : null));
  return { node, show(kept) { shown = kept; fill(); } };
}

// facets: [{ name, of(row) }]. Values that all rows share give nothing to choose from.
function filtersOf(rows, textOf, facets, changed) {
  const search = make("input", { type: "search", name: "text", autocomplete: "off", spellcheck: "false" });
  const told = make("output", {}, "");
  const choices = facets.map(({ name, of }) => {
    const values = [...new Set(rows.map(of))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const select = make("select", { name }, make("option", { value: "" }, "all"),
      values.map((value, at) => make("option", { value: at }, value || "none")));
    return { name, of, values, select };
  }).filter(({ values }) => values.length > 1);
  const form = make("form", { class: "filters", role: "search" }, make("label", {}, "find ", search),
    choices.map(({ name, select }) => make("label", {}, `${name} `, select)), told);
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = rows.filter((row) => {
      const text = textOf(row).toLowerCase();
      return words.every((word) => text.includes(word))
        && choices.every(({ of, values, select }) => select.value === "" || of(row) === values[select.value]);
    });
    told.textContent = kept.length === rows.length ? `${rows.length} rows` : `${kept.length} of ${rows.length} rows`;
    changed(kept);
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
  return form;
}

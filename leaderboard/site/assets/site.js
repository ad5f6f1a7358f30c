"use strict";
// What every page shares: where data scripts hand over what they hold, and how elements are made.
const packbench = {
  boards: [],
  packed: new Map(),
  past: null,
  board(found) { this.boards.push(found); },
  outcomes(found) { this.packed.set(found.key, found.packed); },
  history(found) { this.past = found; },
};
const root = document.body.dataset.root;
const SVG = "http://www.w3.org/2000/svg";

// Text becomes text nodes, so nothing that data holds is ever read as markup.
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const make = (name, attributes, ...children) => filled(document.createElement(name), attributes, children);
const draw = (name, attributes, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

const pageOf = (board, method) => `${root}methods/${board.methods[method]}.html`;
const boardOf = (board, budget) => root + board.pages[board.budgets.indexOf(budget)];
const facetOf = (board, entry, facet) => board.values[entry.facets][board.facets.indexOf(facet)];
const recallOf = ([value, low, high]) => `${value.toFixed(4)} [${low.toFixed(4)}, ${high.toFixed(4)}]`;
const msOf = (ms) => (ms === null ? "–" : ms.toLocaleString("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 }));
const bytesOf = (bytes) => bytes.toLocaleString("en", { maximumFractionDigits: 2 });

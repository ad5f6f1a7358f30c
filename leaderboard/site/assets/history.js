"use strict";
// Every series over commits: a small plot for each metric of a method, its change points marked, and the same as a table.
{
  const { told, headings, changes, commits, texts, series: packed } = packbench.past;
  const place = document.getElementById("history");
  const named = (commit) => (/^[0-9a-f]{40}$/.test(commit) ? commit.slice(0, 10) : commit);
  const shownAs = (metric, value) => {
    if (value === null) return "–";
    return metric === "speedup" ? `${Number(value.toPrecision(3))}×` : value.toFixed(metric === "bytes" ? 2 : 4);
  };
  const series = packed.map(([dataset, budget, label, metric, conditions, when, values, found]) => ({
    dataset: texts[dataset], budget: texts[budget], label: texts[label], metric: texts[metric], conditions: texts[conditions],
    points: commits[when].map(([commit, time], at) => {
      const value = values.length === 1 ? values[0] : values[at];
      return { commit, time, value, shown: shownAs(texts[metric], value) };
    }),
    found: found.map(([at, before, after]) => [at, shownAs(texts[metric], before), shownAs(texts[metric], after)]),
  }));
  const groups = new Map(); // one for each method at a budget on a data set, by metric
  for (const one of series) {
    const key = JSON.stringify([one.dataset, one.budget, one.label]);
    if (!groups.has(key)) groups.set(key, { dataset: one.dataset, budget: one.budget, label: one.label, series: [] });
    groups.get(key).series.push(one);
  }

  const [WIDE, HIGH, EDGE] = [280, 110, 20];
  function small(one) {
    const values = one.points.map((point) => point.value).filter((value) => value !== null);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const xOf = (at) => 6 + (one.points.length > 1 ? at / (one.points.length - 1) : 0.5) * (WIDE - 12);
    const yOf = (value) => (high > low ? HIGH - EDGE - (value - low) / (high - low) * (HIGH - 2 * EDGE) : HIGH / 2);
    const runs = []; // a missing value interrupts the line
    one.points.forEach(({ value }, at) => {
      if (value === null) return;
      const corner = `${xOf(at).toFixed(1)},${yOf(value).toFixed(1)}`;
      if (at && one.points[at - 1].value !== null) runs.at(-1).push(corner);
      else runs.push([corner]);
    });
    const marked = new Map(one.found.map(([at, before, after]) => [at, `${before} to ${after}`]));
    const says = one.found.length
      ? `changed at ${one.found.map(([at, before, after]) => `${named(one.points[at].commit)}, ${before} to ${after}`).join("; ")}`
      : values.length < 4 ? "too short for change points" : "no change points";
    const last = one.points.at(-1).shown;
    return make("figure", { class: "past" },
      make("figcaption", {}, make("b", {}, one.metric), ` ${last}`, one.found.length ? make("span", { class: "status" }, ` ${says}`) : ` ${says}`),
      draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, width: WIDE, height: HIGH, role: "img",
        "aria-label": `${one.label}, ${one.metric} over ${one.points.length} commits, now ${last}: ${says}` },
        high > low ? [[high, 11], [low, HIGH - 4]].map(([value, y]) => draw("text", { x: 0, y }, shownAs(one.metric, value))) : [],
        [...marked.keys()].map((at) => draw("line", { class: "turn", x1: xOf(at), x2: xOf(at), y1: 0, y2: HIGH })),
        runs.map((corners) => draw("polyline", { class: "frontier", points: corners.join(" ") })),
        one.points.map((point, at) => point.value !== null && draw("circle", {
          class: marked.has(at) ? "turned" : "seen", cx: xOf(at), cy: yOf(point.value), r: marked.has(at) ? 5 : 2.5,
        }, draw("title", {}, `${named(point.commit)}: ${point.shown}${marked.has(at) ? `; changed, ${marked.get(at)}` : ""}`))).filter(Boolean)),
      one.several ? make("p", { class: "sizes" }, one.conditions) : null);
  }

  // The same as text, a row for each commit, newest first, built when it is asked for.
  function listed(group) {
    const rows = new Map();
    for (const one of group.series) {
      one.points.forEach((point, at) => {
        const key = JSON.stringify([point.commit, point.time]);
        if (!rows.has(key)) rows.set(key, { commit: point.commit, time: point.time, shown: new Map() });
        rows.get(key).shown.set(one, one.found.some(([found]) => found === at) ? `${point.shown} (changed)` : point.shown);
      });
    }
    return tableOf(`${group.label}, ${group.dataset}, ${group.budget} by commit`, [
      { key: "spec", heading: "commit", text: (row) => row.commit, node: (row) => make("code", {}, row.commit) },
      { key: "time", heading: "time", text: (row) => row.time },
      ...group.series.map((one) => ({
        key: "", heading: one.several ? `${one.metric}, ${one.conditions}` : one.metric, numeric: true,
        text: (row) => row.shown.get(one) ?? "–",
      })),
    ], [...rows.values()].sort((a, b) => (a.time < b.time ? 1 : -1))).node;
  }

  function drawn(group) {
    const details = make("details", {}, make("summary", {}, `${group.label} as a table`));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(listed(group));
    });
    return make("section", {}, make("h3", {}, make("code", {}, group.label)), make("div", { class: "pasts" }, group.series.map(small)), details);
  }

  if (!series.length) {
    place.append(make("p", {}, "No history here yet: ", make("code", {}, "packbench history FILES --html FOLDER"), " draws it into the folder of this site."));
  } else {
    place.append(make("p", { class: "verdict" }, told));
    if (changes.length) {
      const table = tableOf("Change points", headings.map((heading, at) => ({
        key: heading === "method" ? "spec" : heading, heading, numeric: ["budget", "from", "to"].includes(heading),
        text: (row) => row[at], node: heading === "method" || heading === "commit" ? (row) => make("code", {}, row[at]) : undefined,
      })), changes);
      const facets = ["metric", "data set", "budget"].map((name) => ({ name, of: (row) => row[headings.indexOf(name)] }));
      place.append(make("h2", {}, "Change points"), filtersOf(changes, (row) => row.join(" "), facets, table.show), table.node);
    }
    for (const group of groups.values()) {
      for (const one of group.series) one.several = group.series.some((other) => other !== one && other.metric === one.metric);
      group.changed = group.series.some((one) => one.found.length) ? "changed" : "unchanged";
    }
    const all = [...groups.values()];
    const shown = make("div", {});
    const budgets = [...new Set(all.map((group) => JSON.stringify([group.dataset, group.budget])))];
    const choice = make("select", {}, budgets.map((of, at) => {
      const [dataset, budget] = JSON.parse(of);
      return make("option", { value: at }, `${dataset}, ${budget === "own size" ? budget : `${budget} bytes per item`}`);
    }));
    // One data set and budget at a time: all of them would be thousands of plots.
    const fill = () => {
      const here = all.filter((group) => JSON.stringify([group.dataset, group.budget]) === budgets[choice.value]);
      const filters = filtersOf(here, (group) => group.label, [{ name: "level", of: (group) => group.changed }],
        (kept) => shown.replaceChildren(...kept.map(drawn)));
      plots.replaceChildren(filters, shown);
    };
    const plots = make("div", {});
    const first = budgets.findIndex((of) => all.some((group) => group.changed === "changed"
      && JSON.stringify([group.dataset, group.budget]) === of));
    choice.value = Math.max(first, 0);
    choice.addEventListener("change", fill);
    place.append(make("h2", {}, "Methods"), make("p", { class: "filters" }, make("label", {}, "data set and budget ", choice)), plots);
    fill();
  }
}

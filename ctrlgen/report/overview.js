/* Head, one card per run, charts of all samples, the comparison, how it was made. */

ctrlgen.head = function (place, data) {
  const { h } = ctrlgen;
  const number = data.sections.reduce((sum, section) => sum + section.samples.length, 0);
  const flagged = data.sections.reduce((sum, section) => sum + section.samples.filter(s => s.flags).length, 0);
  place.append(
    h("h1", {}, data.title),
    h("p", { class: "soft" }, `${data.sections.length} ${data.sections.length > 1 ? "runs" : "run"}, `
      + `${number} ${number === 1 ? "sample" : "samples"}, ${flagged} flagged. Written ${data.created} by ctrlgen ${data.version}.`),
    h("nav", { "aria-label": "Parts" }, [["contest", "Which method"], ["overview", "Runs"], ["charts", "Charts"], ["comparison", "Comparison"], ["samples", "Samples"], ["reproduce", "How it was made"]]
      .filter(([id]) => id !== "comparison" || data.comparisons.length)
      .filter(([id]) => id !== "contest" || data.sections.some(section => section.contest))
      .map(([id, text]) => h("a", { href: "#" + id }, text))),
  );
};

ctrlgen.numbers = function (section, name) {
  const values = section.samples.map(sample => ctrlgen.value(sample, name));
  return values.map(v => (typeof v === "boolean" ? Number(v) : v)).filter(v => typeof v === "number");
};

/* Metrics of numbers, the cost first where there is no other. */
ctrlgen.numeric = function (section) {
  const own = section.metrics.filter(metric => metric.listed && ctrlgen.numbers(section, metric.name).length);
  return own.length ? own : [{ name: "cost", unit: null, better: "lower", digits: null }];
};

ctrlgen.cards = function (place, data) {
  const { h, format, label, quantile } = ctrlgen;
  place.append(h("h2", {}, data.sections.length > 1 ? "Runs" : "Run"));
  const cards = h("div", { class: "cards" });
  data.sections.forEach((section, index) => {
    const total = section.samples.length + section.missing.length;
    const bad = section.samples.filter(sample => sample.flags).length;
    const good = section.samples.length - bad;
    const share = count => ({ width: (100 * count) / Math.max(total, 1) + "%" });
    const rows = ctrlgen.numeric(section).slice(0, 8).map(metric => {
      const sorted = ctrlgen.numbers(section, metric.name).sort((a, b) => a - b);
      const truth = section.samples.some(s => typeof ctrlgen.value(s, metric.name) === "boolean");
      const words = truth ? `${sorted.reduce((a, b) => a + b, 0)} of ${section.samples.length}`
        : format(quantile(sorted, 0.5), metric.digits);
      const spread = truth ? "" : `${format(quantile(sorted, 0.1), metric.digits)} … ${format(quantile(sorted, 0.9), metric.digits)}`;
      return h("tr", {}, h("td", {}, label(metric.name, metric.unit)), h("td", { class: "number" }, words),
        h("td", { class: "number soft" }, spread), h("td", { class: "number soft" }, String(sorted.length)));
    });
    cards.append(h("article", { class: "card" },
      h("h3", {}, h("span", { class: "swatch", style: { background: ctrlgen.colour(index) } }), section.title),
      h("div", { class: "bar", role: "img", "aria-label": `${good} without a flag, ${bad} flagged, ${section.missing.length} missing` },
        h("span", { class: "good", style: share(good) }), h("span", { class: "bad", style: share(bad) })),
      h("p", { class: "small soft" }, `${good} without a flag, ${bad} flagged`
        + (section.missing.length ? `, ${section.missing.length} missing` : "") + (section.complete ? "" : "; not complete")),
      ctrlgen.facts(Object.entries(section.facts)),
      section.warnings.map(text => h("p", { class: "warning small" }, text)),
      h("div", { class: "small", style: { overflowX: "auto" } }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", {}, ""), h("th", { class: "number" }, "median"), h("th", { class: "number" }, "10 … 90 %"), h("th", { class: "number" }, "of"))),
        h("tbody", {}, rows)))));
  });
  place.append(cards);
};

/* Value of a course where x evaluations are spent: the last one before; null before the first. */
ctrlgen.at = function (course, x) {
  const [counts, values] = course;
  let value = null;
  for (let i = 0; i < counts.length && counts[i] <= x; i++) value = values[i];
  return value;
};

ctrlgen.courseTraces = function (sections) {
  const traces = [], lines = 60;
  sections.forEach((section, index) => {
    const own = section.samples.filter(sample => sample.course && sample.course[0].length > 1);
    if (!own.length) return;
    const colour = ctrlgen.colour(index), x = [], y = [], data = [];
    const step = Math.max(1, Math.ceil(own.length / lines));
    own.filter((_, i) => i % step === 0).forEach(sample => {
      sample.course[0].forEach((count, i) => { x.push(count); y.push(sample.course[1][i]); data.push([index, sample.id]); });
      x.push(null); y.push(null); data.push(null);
    });
    traces.push({ x, y, customdata: data, mode: "lines", line: { color: colour, width: 1 }, opacity: own.length > 1 ? 0.3 : 1, hoverinfo: "x+y", showlegend: false });
    if (own.length < 3) return;
    const last = Math.max(...own.map(sample => sample.course[0].at(-1)));
    const first = Math.min(...own.map(sample => sample.course[0][0]));
    const grid = Array.from({ length: 40 }, (_, i) => first + ((last - first) * i) / 39);
    const middle = grid.map(at => ctrlgen.quantile(own.map(s => ctrlgen.at(s.course, at)).filter(v => v !== null).sort((a, b) => a - b), 0.5));
    traces.push({ x: grid, y: middle, mode: "lines", line: { color: colour, width: 3 }, name: ctrlgen.plainText(section.title), hovertemplate: "median %{y:.4g}<extra></extra>", showlegend: sections.length > 1 });
  });
  return traces;
};

ctrlgen.goal = target => (target === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: target, y1: target, line: { dash: "dash", width: 1, color: "#8d8a99" } }]);

ctrlgen.allCharts = function (place, data) {
  const { h } = ctrlgen;
  const cards = h("div", { class: "two" });
  const open = point => point && ctrlgen.open(point[0], point[1]);
  place.append(h("h2", {}, "Charts"), cards);
  const kinds = [...new Set(data.sections.map(section => section.course))];
  for (const kind of kinds) {
    const sections = data.sections.map(section => (section.course === kind ? section : { ...section, samples: [] }));
    const traces = ctrlgen.courseTraces(sections);
    if (!traces.length) continue;
    const target = sections.find(section => section.course === kind).target;
    const chart = h("div", { class: "chart", role: "img", "aria-label": `${kind} against network evaluations` });
    const layout = { title: `${kind} against network evaluations`, xaxis: { title: { text: "network evaluations" } }, yaxis: {}, shapes: ctrlgen.goal(target), showlegend: sections.length > 1 };
    const log = h("button", { class: "plain", type: "button", "aria-pressed": "false" }, "logarithmic");
    const draw = ctrlgen.chart(chart, traces, layout, { click: open });
    log.addEventListener("click", () => {
      const on = log.getAttribute("aria-pressed") !== "true";
      log.setAttribute("aria-pressed", on);
      layout.yaxis = { type: on ? "log" : "linear" };
      draw();
    });
    const positive = traces.every(trace => trace.y.every(value => value === null || value > 0));
    cards.append(h("div", { class: "card" }, chart, positive ? h("div", { class: "buttons" }, log) : null));
  }
  const metrics = [];
  data.sections.forEach(section => ctrlgen.numeric(section).forEach(metric => {
    if (!metrics.some(other => other.name === metric.name)) metrics.push(metric);
  }));
  if (metrics.length) {
    const chart = h("div", { class: "chart", role: "img", "aria-label": "Distribution of a metric" });
    const choice = h("select", {}, metrics.map((metric, i) => h("option", { value: i }, ctrlgen.label(metric.name, metric.unit))));
    const layout = { yaxis: {}, xaxis: { automargin: true } };
    const traces = () => {
      const metric = metrics[Number(choice.value)];
      layout.yaxis.title = { text: ctrlgen.plainText(ctrlgen.label(metric.name, metric.unit)) };
      return data.sections.map((section, index) => {
        const own = section.samples.filter(sample => typeof ctrlgen.value(sample, metric.name) === "number");
        return { type: "box", y: own.map(s => ctrlgen.value(s, metric.name)), customdata: own.map(s => [index, s.id]), name: ctrlgen.plainText(section.title).slice(0, 24) + "\u200b".repeat(index),
          boxpoints: own.length > 300 ? "outliers" : "all", jitter: 0.5, pointpos: 0, marker: { color: ctrlgen.colour(index), size: 5, opacity: 0.6 }, line: { color: ctrlgen.colour(index) }, fillcolor: "rgba(0,0,0,0)" };
      });
    };
    const draw = ctrlgen.chart(chart, traces, layout, { click: open });
    choice.addEventListener("change", draw);
    cards.append(h("div", { class: "card" }, h("label", { class: "small soft" }, "Distribution of ", choice), chart));
  }
  data.sections.forEach(section => ctrlgen.panels[section.panel]?.overview?.(cards, section, ctrlgen));
  if (!cards.children.length) place.hidden = true;
};

ctrlgen.comparison = function (place, data) {
  const { h, format, label } = ctrlgen;
  if (!data.comparisons.length) { place.hidden = true; return; }
  const percent = Math.round(100 * data.level);
  const rows = data.comparisons.map(row => h("tr", {},
    h("td", {}, label(row.metric, row.unit)),
    h("td", {}, h("span", { class: "swatch", style: { background: ctrlgen.colour(row.b) } }), data.sections[row.b].title),
    h("td", {}, h("span", { class: "swatch", style: { background: ctrlgen.colour(row.a) } }), data.sections[row.a].title),
    h("td", { class: "number" }, format(row.first)), h("td", { class: "number" }, format(row.second)),
    h("td", { class: "number" }, format(row.difference)),
    h("td", { class: "number" }, row.low === null ? "–" : `${format(row.low)} … ${format(row.high)}`),
    h("td", { class: "number" }, row.better === null ? "–" : `${row.better} of ${row.valued}` + (row.equal ? `, ${row.equal} equal` : "")),
    h("td", { class: "number" }, String(row.pairs - row.valued))));
  const heads = ["metric", "run", "against", "mean of that", "mean", "difference", `${percent} % interval`, "better in", "without a value"];
  place.append(h("h2", {}, "Comparison"),
    h("p", { class: "soft" }, "Sample by sample: mean of the differences over the pairs of one seed, with its bootstrap interval. A run is compared with the first one of the same problem."),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Paired comparison" }, h("table", {},
      h("thead", {}, h("tr", {}, heads.map((text, i) => h("th", { class: i > 2 ? "number" : "" }, text)))), h("tbody", {}, rows))));
  const chart = h("div", { class: "chart", role: "img", "aria-label": "Pairs of one metric" });
  const choice = h("select", {}, [...new Set(data.comparisons.map(row => row.metric))].map(name => h("option", {}, name)));
  const layout = { xaxis: {}, yaxis: {}, showlegend: data.sections.length > 2, height: 380 };
  const traces = () => {
    const name = choice.value, made = [], ends = [];
    data.comparisons.filter(row => row.metric === name).forEach(({ a, b }) => {
      const first = data.sections[a], section = data.sections[b];
      const there = new Map(section.samples.map(sample => [sample.seed, sample]));
      const pairs = first.samples.filter(s => there.has(s.seed)).map(s => [s, there.get(s.seed)])
        .filter(pair => pair.every(s => typeof ctrlgen.value(s, name) === "number"));
      const x = pairs.map(([a]) => ctrlgen.value(a, name)), y = pairs.map(([, b]) => ctrlgen.value(b, name));
      ends.push(...x, ...y);
      made.push({ x, y, customdata: pairs.map(([, own]) => [b, own.id]), text: pairs.map(([own]) => `seed ${own.seed}`), mode: "markers", name: ctrlgen.plainText(section.title), marker: { color: ctrlgen.colour(b), size: 7, opacity: 0.75 } });
    });
    const low = ends.reduce((a, b) => Math.min(a, b), Infinity), high = ends.reduce((a, b) => Math.max(a, b), -Infinity);
    if (ends.length) made.unshift({ x: [low, high], y: [low, high], mode: "lines", line: { color: "#8d8a99", width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false });
    layout.xaxis.title = { text: ctrlgen.plainText(`${name} of the run compared with`) };
    layout.yaxis.title = { text: ctrlgen.plainText(name) };
    return made;
  };
  const draw = ctrlgen.chart(chart, traces, layout, { click: point => point && ctrlgen.open(point[0], point[1]) });
  choice.addEventListener("change", draw);
  place.append(h("div", { class: "card", style: { marginTop: "1rem" } }, h("label", { class: "small soft" }, "Pairs of ", choice), chart));
};

ctrlgen.reproduce = function (place, data) {
  const { h } = ctrlgen;
  place.append(h("h2", {}, "How it was made"), h("div", { class: "cards" }, data.sections.map((section, index) => h("article", { class: "card" },
    h("h3", {}, h("span", { class: "swatch", style: { background: ctrlgen.colour(index) } }), section.title),
    section.command ? h("pre", { "aria-label": "Command" }, section.command) : null,
    ctrlgen.facts(Object.entries(section.environment)),
    section.missing.length ? h("p", { class: "small" }, `Missing seeds: ${section.missing.slice(0, 100).join(", ")}${section.missing.length > 100 ? ", …" : ""}`) : null,
    section.settings ? h("details", {}, h("summary", {}, "All settings"), h("pre", {}, JSON.stringify(section.settings, null, 2))) : null))));
};

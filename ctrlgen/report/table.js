/* The samples: a table or pictures, sorted and filtered; those with flags first. */

ctrlgen.columns = function (data) {
  const columns = [];
  const add = (name, unit, better, digits) => {
    if (columns.some(column => column.name === name)) return;
    const values = data.sections.flatMap(section => section.samples.map(sample => ctrlgen.value(sample, name)));
    if (values.every(value => value === null)) return;
    columns.push({ name, unit, better, digits, number: values.some(value => typeof value === "number") });
  };
  data.sections.forEach(section => section.metrics.filter(m => m.listed).forEach(m => add(m.name, m.unit, m.better, m.digits)));
  add("cost", null, "lower", null);
  for (const name of new Set(data.sections.flatMap(s => s.samples.flatMap(sample => Object.keys(sample.counts || {}))))) add(name, null, "lower", 0);
  add("seconds", "s", "lower", 2);
  return columns;
};

/* "psnr>25" narrows a column; any other word must stand somewhere in the sample. */
ctrlgen.filter = function (text, columns) {
  const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map(word => {
    const [, name, sign, bound] = word.match(/^(.+?)(>=|<=|>|<|=)(-?[\d.]+(?:e[+-]?\d+)?)$/) || [];
    const column = name && ([{ name: "seed" }, ...columns].find(c => c.name.toLowerCase() === name) || columns.find(c => c.name.toLowerCase().replace(/\s/g, "").startsWith(name)));
    if (!column) return row => row.words.includes(word);
    const limit = Number(bound);
    const compare = { ">": v => v > limit, "<": v => v < limit, ">=": v => v >= limit, "<=": v => v <= limit, "=": v => v === limit }[sign];
    return row => { const value = ctrlgen.value(row.sample, column.name); return typeof value === "number" && compare(value); };
  });
  return row => tests.every(test => test(row));
};

ctrlgen.samples = function (place, data) {
  const { h, format, label } = ctrlgen;
  const several = data.sections.length > 1, columns = ctrlgen.columns(data), PART = 60;
  const rows = data.sections.flatMap((section, index) => section.samples.map(sample => ({
    section, index, sample,
    words: [`seed ${sample.seed}`, String(sample.seed), sample.status, ...(sample.flags || []), sample.reason || "", several ? section.title : "",
      ...Object.values(sample.metrics || {}).filter(v => typeof v === "string")].join(" ").toLowerCase(),
  })));
  const short = column => column.name.replace(/\s*\(.*/, "").replace(/\s/g, "");
  const state = { column: null, down: false, text: "", run: "", status: "", flagged: false, pictures: false };
  const count = h("p", { class: "small soft", "aria-live": "polite", id: "count" });
  const search = h("input", { type: "search", placeholder: "words, or e.g. " + short(columns.find(c => c.number) || { name: "seed" }) + ">0", input: () => { state.text = search.value; refresh(); } });
  const options = (name, names, call) => h("select", { "aria-label": name, change: event => { call(event.target.value); refresh(); } }, h("option", { value: "" }, "all"), names.map(([value, text]) => h("option", { value }, text)));
  const statuses = [...new Set(rows.map(row => row.sample.status))].sort();
  const flagged = h("input", { type: "checkbox", id: "flagged", change: () => { state.flagged = flagged.checked; refresh(); } });
  const views = ["Table", "Pictures"].map(name => h("button", { class: "plain", type: "button", "aria-pressed": String(name === "Table"), click: event => {
    state.pictures = name === "Pictures";
    views.forEach(button => button.setAttribute("aria-pressed", String(button === event.currentTarget)));
    refresh();
  } }, name));
  const drawable = data.sections.some(section => ctrlgen.panels[section.panel]?.picture);
  const body = h("div"), more = h("div", { class: "foot small soft" });
  place.append(h("h2", {}, "Samples"),
    h("div", { class: "tools", role: "search" },
      h("label", { class: "wide" }, "Filter", search),
      several ? h("label", {}, "Run", options("Run", data.sections.map((s, i) => [String(i), s.title]), value => { state.run = value; })) : null,
      statuses.length > 1 ? h("label", {}, "Status", options("Status", statuses.map(s => [s, s]), value => { state.status = value; })) : null,
      h("label", { class: "check" }, flagged, "flagged only"),
      drawable ? h("div", { class: "buttons", role: "group", "aria-label": "View" }, views) : null),
    count, body, more);

  const order = row => (row.sample.flags ? row.sample.flags.length : 0);
  const sorted = list => {
    const own = [...list];
    if (state.column === null) return own.sort((a, b) => order(b) - order(a));
    const of = row => (state.column === "run" ? row.index : ctrlgen.value(row.sample, state.column));
    const sign = state.down ? -1 : 1;
    return own.sort((a, b) => {
      const x = of(a), y = of(b);
      if (x === null || y === null) return (x === null) - (y === null);  // what is missing is last
      return sign * (typeof x === "string" || typeof y === "string" ? String(x).localeCompare(String(y), undefined, { numeric: true }) : x - y);
    });
  };
  let shown = [], until = 0, target = null, watch = null;

  const picture = row => ctrlgen.panels[row.section.panel]?.picture?.(row.section, row.sample) || null;
  const flags = sample => (sample.flags || []).map(flag => h("span", { class: "flag" }, flag));
  const line = row => h("tr", { class: "row" + (row.sample.flags ? " flagged" : ""), click: () => ctrlgen.open(row.index, row.sample.id) },
    h("td", {}, h("button", { class: "link", type: "button" }, `seed ${row.sample.seed}`)),
    drawable ? h("td", {}, picture(row)) : null,
    several ? h("td", { class: "text" }, h("span", { class: "swatch", style: { background: ctrlgen.colour(row.index) } }), row.section.title) : null,
    h("td", {}, row.sample.status, flags(row.sample)),
    columns.map(column => {
      const text = format(ctrlgen.value(row.sample, column.name), column.digits);
      return h("td", { class: column.number ? "number" : "text", title: text.length > 24 ? text : null }, text);
    }));
  const tile = row => {
    const first = columns[0], best = columns.find(c => c.number);
    return h("button", { type: "button", class: row.sample.flags ? "flagged" : "", click: () => ctrlgen.open(row.index, row.sample.id) },
      picture(row), h("div", {}, several ? h("span", { class: "swatch", style: { background: ctrlgen.colour(row.index) } }) : null, `seed ${row.sample.seed}`, flags(row.sample)),
      best ? h("div", { class: "soft" }, `${label(best.name, best.unit)} ${format(ctrlgen.value(row.sample, best.name), best.digits)}`) : null,
      first && first !== best ? h("div", { class: "soft", style: { overflow: "hidden", textOverflow: "ellipsis" } }, format(ctrlgen.value(row.sample, first.name), first.digits)) : null);
  };
  const grow = () => {
    const part = shown.slice(until, until + PART);
    until += part.length;
    target.append(...part.map(state.pictures ? tile : line));
    more.textContent = until < shown.length ? `${shown.length - until} more` : "";
    if (until < shown.length) { watch?.disconnect(); watch = new IntersectionObserver(e => e.some(x => x.isIntersecting) && grow(), { rootMargin: "600px" }); watch.observe(more); }
    else watch?.disconnect();
  };
  const head = (name, text, number) => {
    const sort = state.column !== name ? null : state.down ? "descending" : "ascending";
    return h("th", { scope: "col", class: number ? "number" : "", "aria-sort": sort }, h("button", { type: "button", "data-column": name, click: () => {
      state.down = state.column === name ? !state.down : false;
      state.column = name;
      refresh();
      body.querySelector(`[data-column=${CSS.escape(name)}]`)?.focus();
    } }, text));
  };
  const refresh = () => {
    const test = ctrlgen.filter(state.text, columns);
    shown = sorted(rows.filter(row => test(row) && (state.run === "" || row.index === Number(state.run))
      && (state.status === "" || row.sample.status === state.status) && (!state.flagged || row.sample.flags)));
    ctrlgen.order = shown.map(row => [row.index, row.sample.id]);
    count.textContent = `${shown.length} of ${rows.length} samples` + (state.column === null ? ", flagged ones first" : "");
    until = 0;
    if (state.pictures) { target = h("div", { class: "pictures" }); body.replaceChildren(target); }
    else {
      target = h("tbody");
      body.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of samples" }, h("table", { class: "grid" },
        h("thead", {}, h("tr", {}, head("seed", "seed"), drawable ? h("th", {}, "") : null, several ? head("run", "run") : null, head("status", "status"),
          columns.map(column => head(column.name, label(column.name, column.unit), column.number)))), target)));
    }
    grow();
  };
  refresh();
};

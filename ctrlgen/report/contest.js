/* A comparison of methods: the recommendation, quality against compute, all rows. */

ctrlgen.contest = function (place, data) {
  const { h } = ctrlgen;
  const contests = data.sections.map(section => section.contest).filter(contest => contest);
  if (!contests.length) { place.hidden = true; return; }
  place.append(h("h2", {}, "Which method"));
  for (const contest of contests) {
    const number = contest.heads.map(head => head.endsWith(">"));
    place.append(
      h("div", { class: "card" }, contest.sentences.map(text => h("p", {}, h("strong", {}, text))),
        contest.notes.map(text => h("p", { class: "small soft" }, text))));
    const chart = h("div", { class: "chart", role: "img", "aria-label": "Quality against compute" });
    const methods = [...new Set(contest.points.map(point => point.method))];
    const traces = methods.map((name, index) => {
      const own = contest.points.filter(point => point.method === name).sort((a, b) => a.budget - b.budget);
      return { x: own.map(p => p.evaluations + p.backward_passes), y: own.map(p => p.mean), name: ctrlgen.plainText(name), mode: "lines+markers",
        text: own.map(p => `${ctrlgen.format(p.evaluations)} evaluations, ${ctrlgen.format(p.backward_passes)} backward passes`),
        hovertemplate: "%{y:.4g}, %{text}", line: { color: ctrlgen.colour(index), width: 1 },
        marker: { size: 9, color: ctrlgen.colour(index), symbol: ["circle", "square", "diamond"][Math.floor(index / ctrlgen.colours.length) % 3] } };
    });
    ctrlgen.chart(chart, traces, {
      title: "Quality against compute", height: 420, showlegend: true,
      xaxis: { title: { text: "network evaluations and backward passes of a sample" } },
      yaxis: { title: { text: ctrlgen.plainText(contest.label) } },
    });
    const rows = contest.lines.map(line => h("tr", {}, line.map((cell, i) => h("td", { class: number[i] ? "number" : "" }, cell))));
    place.append(h("div", { class: "card", style: { marginTop: "1rem" } }, chart),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All methods" }, h("table", {},
        h("thead", {}, h("tr", {}, contest.heads.map((head, i) => h("th", { class: number[i] ? "number" : "" }, head.replace(/>$/, ""))))),
        h("tbody", {}, rows))));
  }
};

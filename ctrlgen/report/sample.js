/* The view of one sample: what its domain draws, its numbers, its course, and its like in other runs. */

ctrlgen.order = [];

/* What is drawn in the view goes: charts free their memory, and panels hear of it. */
const leave = dialog => { dialog.dispatchEvent(new Event("leave")); ctrlgen.forget(dialog); };

ctrlgen.open = function (index, id) {
  const { h, format, label } = ctrlgen;
  const dialog = document.getElementById("sample");
  const section = ctrlgen.data.sections[index], sample = section.samples.find(each => each.id === id);
  const at = ctrlgen.order.findIndex(([i, own]) => i === index && own === id);
  leave(dialog);
  const step = by => h("button", { class: "plain", type: "button", "aria-label": by < 0 ? "Previous sample" : "Next sample", disabled: at < 0 || !ctrlgen.order[at + by], click: () => ctrlgen.open(...ctrlgen.order[at + by]) }, by < 0 ? "←" : "→");
  const view = h("div", { class: "view" });
  const title = `Seed ${sample.seed}` + (ctrlgen.data.sections.length > 1 ? ` · ${section.title}` : "");
  dialog.replaceChildren(h("div", { class: "bar-top" }, h("h2", {}, title), step(-1), step(1),
    h("button", { class: "plain", type: "button", click: () => dialog.close() }, "Close")), view);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const panel = ctrlgen.panels[section.panel];
  const draw = (own, each) => {
    const place = h("div", { class: "panel", "data-panel": own.panel });
    view.append(place);
    if (panel && each.panel) ctrlgen.panels[own.panel]?.draw(place, own, each, ctrlgen);
  };
  const flags = (sample.flags || []).map(flag => h("span", { class: "flag" }, flag));
  if (flags.length || sample.reason) view.append(h("p", { class: "warning" }, sample.status, flags, sample.reason ? h("span", {}, ` ${sample.reason}`) : null));
  draw(section, sample);
  const numbers = [["status", sample.status], ["cost", sample.cost]];
  for (const metric of section.metrics) numbers.push([label(metric.name, metric.unit), metric.name in (sample.metrics || {}) ? format(sample.metrics[metric.name], metric.digits) : null]);
  numbers.push(...Object.entries(sample.counts || {}), ["seconds", sample.seconds]);
  const chart = sample.course && sample.course[0].length > 1 ? h("div", { class: "chart", role: "img", "aria-label": `${section.course} against network evaluations` }) : null;
  view.append(h("div", { class: "two" }, h("div", { class: "card" }, h("h3", {}, "Numbers"), ctrlgen.facts(numbers)), chart ? h("div", { class: "card" }, chart) : null));
  if (chart) {
    const [x, y] = sample.course;
    ctrlgen.chart(chart, [{ x, y, mode: "lines+markers", marker: { size: 4 }, line: { color: ctrlgen.colour(index), shape: "hv" } }],
      { title: `${section.course} against network evaluations`, xaxis: { title: { text: "network evaluations" } }, shapes: ctrlgen.goal(section.target) }, { now: true });
  }
  ctrlgen.data.sections.forEach((other, i) => {
    const same = i !== index && other.panel === section.panel && other.samples.find(each => each.seed === sample.seed);
    if (!same) return;
    view.append(h("h3", {}, h("span", { class: "swatch", style: { background: ctrlgen.colour(i) } }), `The same seed in “${other.title}”`));
    draw(other, same);
  });
};

document.getElementById("sample").addEventListener("close", event => { leave(event.target); event.target.replaceChildren(); });
document.getElementById("sample").addEventListener("keydown", event => {
  if (event.target.closest("canvas, input, select, [role=application], [role=radiogroup]") || event.altKey || event.ctrlKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) event.currentTarget.querySelector(`[aria-label="${by < 0 ? "Previous" : "Next"} sample"]`).click();
});

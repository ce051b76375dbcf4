/* Charts by plotly, in the colours of the page. */

ctrlgen.style = function () {
  const own = getComputedStyle(document.documentElement);
  const of = name => own.getPropertyValue(name).trim();
  return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), card: of("--card"), accent: of("--accent"), bad: of("--bad") };
};

ctrlgen.layout = function (layout) {
  const colours = ctrlgen.style();
  const axis = { gridcolor: colours.line, linecolor: colours.line, zerolinecolor: colours.line, automargin: true };
  const merged = {
    margin: { l: 48, r: 12, t: 34, b: 42 }, height: 320, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colours.ink }, showlegend: false, hovermode: "closest",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    legend: { orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom" }, ...layout,
  };
  for (const name of ["xaxis", "yaxis"]) merged[name] = { ...axis, ...(layout[name] || {}) };
  if (typeof merged.title === "string") merged.title = { text: merged.title, font: { size: 13 }, x: 0.01, xanchor: "left" };
  return merged;
};

/* Texts of users are no markup for plotly either: it reads tags and entities. */
ctrlgen.plainText = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

ctrlgen.drawn = new Set();

/* Draw into an element once it is seen, and again when the colours of the system change. */
ctrlgen.chart = function (place, traces, layout, options = {}) {
  const draw = () => {
    if (!window.Plotly) { addEventListener("DOMContentLoaded", draw, { once: true }); return; }  // it comes last in the page
    const config = { displaylogo: false, responsive: true, displayModeBar: false, ...options.config };
    Plotly.react(place, typeof traces === "function" ? traces() : traces, ctrlgen.layout(layout), config);
    place.dataset.drawn = "yes";
    if (options.click && !place.dataset.listens) {
      place.dataset.listens = "yes";
      place.on("plotly_click", event => options.click(event.points[0].customdata));
    }
  };
  const entry = { place, draw: () => place.isConnected && place.dataset.drawn && draw() };
  ctrlgen.drawn.add(entry);
  if (options.now) draw(); else ctrlgen.whenSeen(place, draw);
  return draw;
};

ctrlgen.forget = function (within) {
  for (const entry of ctrlgen.drawn)
    if (within.contains(entry.place)) { Plotly.purge(entry.place); ctrlgen.drawn.delete(entry); }
};

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const entry of ctrlgen.drawn) entry.draw();
});

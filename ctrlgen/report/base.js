"use strict";
/* What every part of the page uses. Elements are made here and get texts, never HTML. */

const ctrlgen = { panels: {}, data: null, panel(name, parts) { this.panels[name] = parts; } };

/* An element: attributes that are functions are listeners; children are elements or texts. */
ctrlgen.h = function (tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else if (key === "style") Object.assign(made.style, value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
};

/* A value as people read it; what is missing or not finite is a dash. */
ctrlgen.format = function (value, digits) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (digits !== null && digits !== undefined) return value.toFixed(digits).replace("-", "−");
  if (Number.isInteger(value)) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
};

ctrlgen.label = (name, unit) => (unit ? `${name} (${unit})` : name);

/* The value at fraction q of sorted numbers. */
ctrlgen.quantile = function (sorted, q) {
  if (!sorted.length) return null;
  const at = (sorted.length - 1) * q, low = Math.floor(at), high = Math.ceil(at);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
};

/* A value of a sample by the name of a column. */
ctrlgen.value = function (sample, name) {
  if (name in (sample.metrics || {})) return sample.metrics[name];
  if (name in (sample.counts || {})) return sample.counts[name];
  return sample[name] ?? null;
};

ctrlgen.colours = ["#5b4bc4", "#d9603f", "#1f8f74", "#b8860b", "#2f74b8", "#a8428a", "#6b7a2a", "#6d6875"];
ctrlgen.colour = index => ctrlgen.colours[index % ctrlgen.colours.length];

/* Call once the element comes into view. */
ctrlgen.whenSeen = function (element, call) {
  const watch = new IntersectionObserver(entries => {
    if (entries.some(entry => entry.isIntersecting)) { watch.disconnect(); call(); }
  }, { rootMargin: "300px" });
  watch.observe(element);
};

ctrlgen.facts = function (pairs) {
  const list = ctrlgen.h("dl");
  for (const [key, value] of pairs)
    if (value !== null && value !== undefined && value !== "")
      list.append(ctrlgen.h("dt", {}, key), ctrlgen.h("dd", {}, ctrlgen.format(value)));
  return list;
};

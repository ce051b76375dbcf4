/* One molecule: its drawing, its model in space, and what was wanted of it. */

ctrlgen.panel("molecules", (() => {
  /* Jmol's colours and covalent radii in A, of the elements that priors know and their neighbours. */
  const ELEMENTS = {
    H: ["#f4f4f4", 0.31], C: ["#8a8a8a", 0.76], N: ["#3050f8", 0.71], O: ["#ff2a0d", 0.66], F: ["#90e050", 0.57],
    B: ["#ffb5b5", 0.84], Si: ["#f0c8a0", 1.11], P: ["#ff8000", 1.07], S: ["#e6c430", 1.05], Cl: ["#1ff01f", 1.02], Br: ["#a62929", 1.2], I: ["#940094", 1.39],
  };
  const element = symbol => ELEMENTS[symbol] || ["#e06ab8", 1.0];

  /* A unit sphere: an icosahedron whose faces are cut into four, twice. */
  const SPHERE = (() => {
    const g = (1 + Math.sqrt(5)) / 2;
    const points = [[-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0], [0, -1, g], [0, 1, g], [0, -1, -g], [0, 1, -g], [g, 0, -1], [g, 0, 1], [-g, 0, -1], [-g, 0, 1]].map(unit);
    let faces = [[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6], [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10], [8, 6, 7], [9, 8, 1]];
    for (let turn = 0; turn < 2; turn++) {
      const middle = new Map();
      const between = (a, b) => {
        const key = a < b ? `${a},${b}` : `${b},${a}`;
        if (!middle.has(key)) { middle.set(key, points.length); points.push(unit(points[a].map((v, i) => v + points[b][i]))); }
        return middle.get(key);
      };
      faces = faces.flatMap(([a, b, c]) => { const [x, y, z] = [between(a, b), between(b, c), between(c, a)]; return [[a, x, z], [b, y, x], [c, z, y], [x, y, z]]; });
    }
    return { points, faces };
  })();
  function unit(v) { const size = Math.hypot(...v); return v.map(x => x / size); }
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

  const mesh = () => ({ type: "mesh3d", x: [], y: [], z: [], i: [], j: [], k: [], vertexcolor: [], hoverinfo: "skip", flatshading: false, lighting: { ambient: 0.55, diffuse: 0.6, specular: 0.35, roughness: 0.4, fresnel: 0.1 }, lightposition: { x: 2000, y: 3000, z: 4000 } });
  const put = (to, points, faces, colour) => {
    const first = to.x.length;
    for (const [x, y, z] of points) { to.x.push(x); to.y.push(y); to.z.push(z); to.vertexcolor.push(colour); }
    for (const [a, b, c] of faces) { to.i.push(first + a); to.j.push(first + b); to.k.push(first + c); }
  };
  const stick = (to, a, b, radius, colour) => {
    const SIDES = 10, along = unit(b.map((v, i) => v - a[i]));
    const side = unit(cross(along, Math.abs(along[0]) < 0.8 ? [1, 0, 0] : [0, 1, 0])), up = cross(along, side);
    const points = [], faces = [];
    for (const end of [a, b]) for (let s = 0; s < SIDES; s++) {
      const angle = (2 * Math.PI * s) / SIDES;
      points.push(end.map((v, i) => v + radius * (Math.cos(angle) * side[i] + Math.sin(angle) * up[i])));
    }
    for (let s = 0; s < SIDES; s++) { const n = (s + 1) % SIDES; faces.push([s, n, SIDES + s], [n, SIDES + n, SIDES + s]); }
    put(to, points, faces, colour);
  };

  const read = molecule => {
    const symbols = molecule.symbols.split(" ");
    return { symbols, at: symbols.map((_, i) => molecule.xyz.slice(3 * i, 3 * i + 3).map(v => v / 100)), bonds: molecule.bonds };
  };

  /* Balls and sticks; of a bond of higher order two or three sticks side by side. */
  const model = molecule => {
    const { symbols, at, bonds } = read(molecule), made = mesh();
    symbols.forEach((symbol, i) => {
      const [colour, radius] = element(symbol);
      put(made, SPHERE.points.map(p => p.map((v, axis) => at[i][axis] + 0.42 * radius * v + 0)), SPHERE.faces, colour);
    });
    for (let n = 0; n < bonds.length; n += 3) {
      const [a, b, order] = bonds.slice(n, n + 3), number = order >= 6 ? 3 : order >= 3 ? 2 : 1;
      const along = unit(at[b].map((v, i) => v - at[a][i]));
      const other = bonds.findIndex((v, m) => m % 3 < 2 && v === a && bonds[m % 3 ? m - 1 : m + 1] !== b);
      const third = other < 0 ? null : bonds[other % 3 ? other - 1 : other + 1];
      let plane = third === null ? [0, 0, 1] : unit(cross(along, at[third].map((v, i) => v - at[a][i])));
      if (!plane.every(Number.isFinite)) plane = Math.abs(along[2]) < 0.9 ? [0, 0, 1] : [1, 0, 0];
      const aside = unit(cross(along, plane));
      for (let s = 0; s < number; s++) {
        const shift = number === 1 ? 0 : (s - (number - 1) / 2) * 0.2;
        const [from, to] = [a, b].map(atom => at[atom].map((v, i) => v + shift * aside[i]));
        const half = from.map((v, i) => (v + to[i]) / 2), radius = number === 1 ? 0.1 : 0.06;
        stick(made, from, half, radius, element(symbols[a])[0]);
        stick(made, half, to, radius, element(symbols[b])[0]);
      }
    }
    const names = { type: "scatter3d", mode: "markers", x: at.map(p => p[0]), y: at.map(p => p[1]), z: at.map(p => p[2]), text: symbols.map((s, i) => `${s}${i + 1}`), hovertemplate: "%{text}<extra></extra>", marker: { size: 9, opacity: 0.01 }, showlegend: false };
    return [made, names];
  };

  /* Eyes look along the axis in which the molecule is thinnest: the last of its inertia. */
  const start = molecule => {
    const { at } = read(molecule), mean = [0, 1, 2].map(i => at.reduce((sum, p) => sum + p[i], 0) / at.length);
    let best = [0, 0, 1], least = Infinity;
    for (const direction of SPHERE.points) {
      const spread = at.reduce((sum, p) => sum + p.reduce((d, v, i) => d + (v - mean[i]) * direction[i], 0) ** 2, 0);
      if (spread < least) { least = spread; best = direction; }
    }
    return best;
  };

  const viewer = (place, sample, page) => {
    const { h } = page;
    const chart = h("div", { class: "chart", tabindex: "0", role: "application", "aria-label": "Model of the molecule: arrows rotate, plus and minus zoom, 0 goes back", "data-pane": "model" });
    const eye = start(sample.panel), home = { eye: eye.map(v => v * 1.7), up: Math.abs(eye[1]) < 0.9 ? [0, 1, 0] : [1, 0, 0] };
    let camera = { ...home };
    const as = v => ({ x: v[0], y: v[1], z: v[2] });
    const axis = { visible: false, showspikes: false };
    const layout = { height: 340, margin: { l: 0, r: 0, t: 0, b: 0 }, scene: { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "data", dragmode: "orbit", camera: { eye: as(camera.eye), up: as(camera.up), center: as([0, 0, 0]) } } };
    const spin = (v, about, angle) => {
      const k = unit(about), c = Math.cos(angle), s = Math.sin(angle), dot = v.reduce((sum, x, i) => sum + x * k[i], 0), kv = cross(k, v);
      return v.map((x, i) => x * c + kv[i] * s + k[i] * dot * (1 - c));
    };
    const set = () => Plotly.relayout(chart, { "scene.camera": { eye: as(camera.eye), up: as(camera.up), center: as([0, 0, 0]) } });
    const current = () => { const c = chart._fullLayout?.scene?.camera || chart.layout.scene.camera; camera = { eye: [c.eye.x, c.eye.y, c.eye.z], up: [c.up.x, c.up.y, c.up.z] }; };
    const turn = (side, over) => {
      current();
      const right = cross(camera.eye, camera.up);
      camera.eye = spin(spin(camera.eye, camera.up, side), right, over);
      camera.up = spin(camera.up, right, over);
      set();
    };
    const zoom = by => { current(); camera.eye = camera.eye.map(v => v / by); set(); };
    const back = () => { camera = { ...home }; set(); };
    chart.addEventListener("keydown", event => {
      const call = { ArrowLeft: () => turn(-0.25, 0), ArrowRight: () => turn(0.25, 0), ArrowUp: () => turn(0, -0.25), ArrowDown: () => turn(0, 0.25), "+": () => zoom(1.2), "=": () => zoom(1.2), "-": () => zoom(1 / 1.2), 0: back }[event.key];
      if (call) { event.preventDefault(); call(); }
    });
    const button = (text, name, call) => h("button", { class: "plain", type: "button", "aria-label": name, click: call }, text);
    place.append(chart, h("div", { class: "buttons" }, button("⟲", "Rotate left", () => turn(-0.4, 0)), button("⟳", "Rotate right", () => turn(0.4, 0)), button("+", "Zoom in", () => zoom(1.25)), button("−", "Zoom out", () => zoom(0.8)), button("reset", "Reset the view", back)));
    page.chart(chart, model(sample.panel), layout, { now: true, config: { scrollZoom: true } });
  };

  const inside = (value, [low, high]) => (low === null || value >= low) && (high === null || value <= high);

  return {
    picture(section, sample) {
      return sample.panel ? ctrlgen.h("img", { class: "thumb drawing", src: sample.panel.svg, loading: "lazy", alt: sample.metrics?.smiles || "drawing" }) : null;
    },

    draw(place, section, sample, page) {
      const { h, format } = page;
      const model = h("div", { class: "card" }, h("h3", {}, "In space"));
      const name = sample.metrics?.smiles || sample.metrics?.formula || "molecule";
      const rows = section.shared.asked.filter(p => p.name in sample.panel.wanted).map(p => {
        const [low, high] = sample.panel.wanted[p.name];
        const found = ["guide", "evaluator"].map(who => sample.metrics[p[who]]);
        return h("tr", {}, h("td", {}, `${p.text} (${p.unit})`), h("td", { class: "number" }, sample.metrics[p.target]), found.map(value =>
          h("td", { class: "number", title: typeof value === "number" && low !== high ? (inside(value, [low, high]) ? "inside" : "outside") : null }, format(value, p.digits))));
      });
      place.append(h("div", { class: "two" },
        h("div", { class: "card" }, h("h3", {}, sample.metrics?.formula || "Drawing"), h("img", { src: sample.panel.svg, alt: name, style: { width: "100%", maxHeight: "300px", background: "#fff", borderRadius: "8px" }, "data-pane": "drawing" }),
          h("p", { class: "small soft", style: { overflowWrap: "anywhere", marginTop: "0.5rem" } }, name)), model),
        rows.length ? h("div", { class: "scroll", style: { marginTop: "1rem" } }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "property"), ["wanted", "guide", "evaluator"].map(t => h("th", { class: "number" }, t)))), h("tbody", {}, rows))) : "");
      viewer(model, sample, page);
      place.dataset.ready = "yes";
    },

    /* Each pair of the properties of a front: draws of the prior behind in grey. */
    front(place, section, page, index, front) {
      const { h, plainText } = page, about = front.properties.map(name => section.shared.asked.find(p => p.name === name));
      const pairs = about.flatMap((_, a) => about.slice(a + 1).map((_, b) => [a, a + 1 + b])), own = section.samples.filter(s => s.metrics?.valid);
      for (const [a, b] of pairs) {
        const [x, y] = [about[a], about[b]], title = p => plainText(`${p.text} (${p.unit}), ${front.large[about.indexOf(p)] ? "large" : "small"} wanted`);
        const chart = h("div", { class: "chart", role: "img", "aria-label": `Front of ${x.text} and ${y.text}`, "data-pane": `front ${x.name} ${y.name}` });
        const marks = (who, colour, size) => ({ x: own.map(s => s.metrics[x[who]] ?? null), y: own.map(s => s.metrics[y[who]] ?? null), customdata: own.map(s => [index, s.id]), mode: "markers", name: `molecules, by the ${who}`, marker: { color: colour, size, opacity: 0.8, line: { width: who === "evaluator" ? own.map(s => (s.metrics.front ? 2 : 0)) : 0, color: "#26242e" } } });
        const traces = [{ x: front.points.map(p => p[a]), y: front.points.map(p => p[b]), mode: "markers", name: "draws, by the evaluator", marker: { color: "#8d8a99", size: 4, opacity: 0.45 }, hoverinfo: "skip" }, marks("guide", "#e2725b", 6), marks("evaluator", "#5b4bc4", 9)];
        const words = pairs.length === 1 || a + b === 1 ? front.words.map(text => h("p", { class: "small soft" }, text)) : [];
        place.append(h("div", { class: "card" }, chart, words));
        page.chart(chart, traces, { title: plainText(`Front: ${x.text} against ${y.text}`), showlegend: true, xaxis: { title: { text: title(x) } }, yaxis: { title: { text: title(y) } } }, { click: point => point && page.open(point[0], point[1]) });
      }
    },

    /* Found against wanted; where all want the same, how what was found is spread around it. */
    overview(place, section, page) {
      const { h, plainText } = page, index = page.data.sections.indexOf(section), front = section.shared.front;
      if (front) this.front(place, section, page, index, front);
      for (const p of section.shared.asked.filter(p => !front?.properties.includes(p.name))) {
        const own = section.samples.filter(s => s.panel && p.name in s.panel.wanted);
        if (!own.length) continue;
        const wanted = own.map(s => s.panel.wanted[p.name]), same = wanted.every(w => w[0] === wanted[0][0] && w[1] === wanted[0][1]);
        const chart = h("div", { class: "chart", role: "img", "aria-label": `${p.text}, wanted and found`, "data-pane": `wanted ${p.name}` });
        const colours = { guide: "#e2725b", evaluator: "#5b4bc4" }, values = who => own.map(s => s.metrics[p[who]] ?? null);
        const series = ["guide", "evaluator"].filter(who => values(who).some(v => typeof v === "number"));
        const custom = own.map(s => [index, s.id]), unit = `${p.text} (${p.unit})`;
        const layout = { title: plainText(`${unit}: wanted and found`), showlegend: true, shapes: [] };
        let traces;
        if (same) {
          const [low, high] = wanted[0], ends = [low, high].filter(v => v !== null);
          layout.shapes = ends.map(x => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: x, x1: x, line: { color: "#8d8a99", width: 2, dash: "dash" } }));
          layout.xaxis = { title: { text: plainText(unit) } };
          traces = series.map(who => ({ type: "box", orientation: "h", x: values(who), name: who, customdata: custom, boxpoints: own.length > 300 ? "outliers" : "all", jitter: 0.6, pointpos: 0, marker: { color: colours[who], size: 6, opacity: 0.7 }, line: { color: colours[who] }, fillcolor: "rgba(0,0,0,0)" }));
        } else {
          const middle = wanted.map(([low, high]) => (low === null ? high : high === null ? low : (low + high) / 2));
          const all = [...middle, ...series.flatMap(values)].filter(v => v !== null), low = Math.min(...all), high = Math.max(...all);
          layout.xaxis = { title: { text: `wanted (${p.unit})` } };
          layout.yaxis = { title: { text: `found (${p.unit})` } };
          traces = [{ x: [low, high], y: [low, high], mode: "lines", line: { color: "#8d8a99", dash: "dot", width: 1 }, showlegend: false, hoverinfo: "skip" },
            ...series.map(who => ({ x: middle, y: values(who), customdata: custom, mode: "markers", name: who, marker: { color: colours[who], size: 7, opacity: 0.75 } }))];
        }
        place.append(h("div", { class: "card" }, chart));
        page.chart(chart, traces, layout, { click: point => point && page.open(point[0], point[1]) });
      }
    },
  };
})());

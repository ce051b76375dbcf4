/* One image beside what was measured, what is true, and where they differ; all zoom together. */

ctrlgen.panel("images", (() => {
  const pictures = (section, sample) => {
    const shared = section.shared || {}, own = sample.panel || {};
    const of = name => own[name] || shared[name] || null;
    return [["measurement", of("measurement")], ["measurement alone (H†y)", of("baseline")], ["reconstruction", of("picture")], ["truth", of("truth")]]
      .filter(([, uri]) => uri).map(([name, uri]) => ({ name: name === "reconstruction" && !of("truth") && !of("measurement") ? "sample" : name, uri }));
  };

  const load = uri => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture cannot be read"));
    image.src = uri;
  });

  const pixels = (image, width, height) => {
    const canvas = document.createElement("canvas");
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  };

  /* |a - b|, the mean over the channels times a gain, from white over violet to black. */
  const difference = (a, b, gain) => {
    const canvas = document.createElement("canvas");
    canvas.width = a.width; canvas.height = a.height;
    const made = new ImageData(a.width, a.height);
    for (let i = 0; i < made.data.length; i += 4) {
      const d = Math.min(1, (gain * (Math.abs(a.data[i] - b.data[i]) + Math.abs(a.data[i + 1] - b.data[i + 1]) + Math.abs(a.data[i + 2] - b.data[i + 2]))) / 765);
      made.data.set([255 * (1 - d), 255 * (1 - d) ** 1.6, 255 * (1 - d * d), 255], i);
    }
    canvas.getContext("2d").putImageData(made, 0, 0);
    return canvas;
  };

  return {
    picture(section, sample) {
      const uri = sample.panel?.picture;
      return uri ? ctrlgen.h("img", { class: "thumb", src: uri, loading: "lazy", alt: `sample of seed ${sample.seed}` }) : null;
    },

    async draw(place, section, sample, page) {
      const { h } = page;
      const shown = pictures(section, sample);
      if (!sample.panel?.picture) place.append(h("p", { class: "soft" }, "There is no picture: the sample is not finite."));
      const images = await Promise.all(shown.map(each => load(each.uri)));
      const panes = shown.map((each, i) => ({ ...each, image: images[i] }));
      const of = name => panes.find(pane => pane.name === name);
      const view = { x: 0.5, y: 0.5, zoom: 1 };
      const gain = h("select", { "aria-label": "Gain of the difference", change: () => { fresh(); draw(); } }, [1, 2, 4, 8, 16].map(value => h("option", { value, selected: value === 4 }, `×${value}`)));
      const [result, truth] = [of("reconstruction"), of("truth")];
      if (result && truth) panes.push({ name: "difference", image: null });
      const fresh = () => {
        const pane = of("difference");
        if (!pane) return;
        const { naturalWidth: width, naturalHeight: height } = truth.image;
        pane.image = difference(pixels(result.image, width, height), pixels(truth.image, width, height), Number(gain.value));
      };
      fresh();
      const reading = h("p", { class: "small soft", "aria-live": "off" }, "Wheel or + and − to zoom, drag or arrows to move, 0 to fit; all pictures move together.");
      const clamp = () => {
        view.zoom = Math.min(64, Math.max(1, view.zoom));
        const half = 0.5 / view.zoom;
        view.x = Math.min(1 - half, Math.max(half, view.x));
        view.y = Math.min(1 - half, Math.max(half, view.y));
      };
      const draw = () => {
        clamp();
        for (const pane of panes) {
          const { canvas, image } = pane;
          const width = image.naturalWidth || image.width, height = image.naturalHeight || image.height;
          canvas.style.aspectRatio = `${width} / ${height}`;
          const side = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
          canvas.width = side; canvas.height = Math.max(1, Math.round((side * height) / width));
          const context = canvas.getContext("2d");
          context.imageSmoothingEnabled = width / view.zoom > side;
          const w = width / view.zoom, t = height / view.zoom;
          context.drawImage(image, view.x * width - w / 2, view.y * height - t / 2, w, t, 0, 0, canvas.width, canvas.height);
        }
      };
      const zoom = (by, at = [0.5, 0.5]) => {
        const before = view.zoom;
        view.zoom = Math.min(64, Math.max(1, view.zoom * by));
        view.x += (at[0] - 0.5) * (1 / before - 1 / view.zoom);
        view.y += (at[1] - 0.5) * (1 / before - 1 / view.zoom);
        draw();
      };
      const where = (canvas, event) => {
        const box = canvas.getBoundingClientRect();
        return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      };
      const read = at => {
        const words = panes.filter(pane => pane.name !== "difference").map(pane => {
          const width = pane.image.naturalWidth, height = pane.image.naturalHeight;
          const x = Math.floor((view.x + (at[0] - 0.5) / view.zoom) * width), y = Math.floor((view.y + (at[1] - 0.5) / view.zoom) * height);
          pane.data ??= pixels(pane.image, width, height);
          const i = 4 * (y * width + x), [r, g, b] = pane.data.data.slice(i, i + 3);
          return r === undefined ? "" : `${pane.name} (${x}, ${y}) ${r === g && g === b ? r : `${r} ${g} ${b}`}`;
        });
        reading.textContent = words.filter(Boolean).join("  ·  ");
      };
      for (const pane of panes) {
        let drag = null;
        pane.canvas = h("canvas", {
          tabindex: "0", role: "img", "aria-label": pane.name, "data-pane": pane.name,
          pointerdown: event => { drag = where(pane.canvas, event); pane.canvas.setPointerCapture(event.pointerId); },
          pointermove: event => {
            const at = where(pane.canvas, event);
            if (drag) { view.x -= (at[0] - drag[0]) / view.zoom; view.y -= (at[1] - drag[1]) / view.zoom; drag = at; draw(); }
            read(at);
          },
          pointerup: () => { drag = null; }, pointercancel: () => { drag = null; },
          keydown: event => {
            const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
            if (move) { view.x += (0.1 * move[0]) / view.zoom; view.y += (0.1 * move[1]) / view.zoom; draw(); }
            else if (event.key === "+" || event.key === "=") zoom(1.5);
            else if (event.key === "-") zoom(1 / 1.5);
            else if (event.key === "0") { Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 }); draw(); }
            else return;
            event.preventDefault();
          },
        });
        pane.canvas.addEventListener("wheel", event => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 300), where(pane.canvas, event)); }, { passive: false });
      }
      const button = (text, name, call) => h("button", { class: "plain", type: "button", "aria-label": name, click: call }, text);
      place.append(h("div", { class: "panes" }, panes.map(pane => h("figure", {}, pane.canvas, h("figcaption", {}, pane.name)))),
        h("div", { class: "buttons" }, button("+", "Zoom in", () => zoom(1.5)), button("−", "Zoom out", () => zoom(1 / 1.5)), button("fit", "Fit", () => zoom(0)), of("difference") ? h("label", { class: "small soft" }, "difference ", gain) : null),
        reading, section.shared?.note ? h("p", { class: "small soft" }, section.shared.note) : "");
      new ResizeObserver(draw).observe(place);
      draw();
      place.dataset.ready = "yes";
    },
  };
})());

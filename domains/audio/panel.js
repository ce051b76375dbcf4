/* Versions of one sound: a player that keeps its place when another is chosen, spectrograms, seams. */

ctrlgen.panel("audio", (() => {
  const bytes = uri => Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), c => c.charCodeAt(0)).buffer;
  const clock = seconds => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
  const FEW = 6;
  let playing = null;  /* one sound at a time on the page */

  /* All versions run together and one is heard, so that a change keeps the place to the sample. */
  class Player {
    constructor(panel) { Object.assign(this, { panel, place: 0, begun: null, chosen: 0, loop: false, sources: [], moved: () => {} }); }

    async load() {
      if (this.context) return;
      const rate = Math.min(96000, Math.max(8000, this.panel.rate));
      this.context = new AudioContext({ sampleRate: rate });
      this.buffers = await Promise.all(this.panel.tracks.map(track => this.context.decodeAudioData(bytes(track.audio))));
      const most = Math.max(...this.panel.tracks.map(track => track.gain));
      this.levels = this.panel.tracks.map(track => 10 ** ((track.gain - most) / 20));  /* none above its own */
    }

    get range() {
      const [start, end] = this.panel.ranges[0] || [0, this.panel.seconds];
      return this.loop && this.panel.ranges.length ? [Math.max(0, start - 0.7), Math.min(this.panel.seconds, end + 0.7)] : [0, this.panel.seconds];
    }

    get now() {
      if (this.begun === null) return this.place;
      const at = this.place + this.context.currentTime - this.begun, [start, end] = this.range;
      return this.loop && at > end ? start + ((at - start) % (end - start)) : at;
    }

    async play() {
      await this.load();
      if (playing && playing !== this) playing.pause();
      playing = this;
      await this.context.resume();
      const [start, end] = this.range;
      if (this.place >= end - 0.01 || this.place < start) this.place = start;
      this.sources = this.buffers.map((buffer, i) => {
        const source = new AudioBufferSourceNode(this.context, { buffer, loop: this.loop, loopStart: start, loopEnd: end });
        const gain = new GainNode(this.context, { gain: i === this.chosen ? this.levels[i] : 0 });
        source.connect(gain).connect(this.context.destination);
        source.start(0, this.place);
        return { source, gain };
      });
      this.sources[0].source.onended = () => { if (this.begun !== null && !this.loop) { this.stop(); this.place = 0; this.moved(); } };
      this.begun = this.context.currentTime;
      this.tick();
    }

    tick() { this.moved(); if (this.begun !== null) requestAnimationFrame(() => this.tick()); }

    stop() {
      for (const { source } of this.sources) { source.onended = null; source.stop(); source.disconnect(); }
      this.sources = [];
      this.begun = null;
    }

    pause() { const at = this.now; this.stop(); this.place = Math.min(at, this.panel.seconds); this.moved(); }

    toggle() { return this.begun === null ? this.play() : this.pause(); }

    async seek(at) {
      const on = this.begun !== null;
      if (on) this.stop();
      this.place = Math.min(this.panel.seconds, Math.max(0, at));
      if (on) await this.play(); else this.moved();
    }

    choose(index) {
      this.chosen = index;
      this.sources.forEach(({ gain }, i) => gain.gain.setTargetAtTime(i === index ? this.levels[i] : 0, this.context.currentTime, 0.004));
      this.moved();
    }
  }

  const paint = (canvas, image, panel, at, style) => {
    const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)), height = Math.round(170 * devicePixelRatio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const context = canvas.getContext("2d"), unit = devicePixelRatio;
    context.drawImage(image, 0, 0, width, height);
    const x = seconds => (seconds / panel.seconds) * width;
    const y = hertz => height * (1 - Math.log(hertz / panel.lowest) / Math.log(panel.rate / 2 / panel.lowest));
    context.lineWidth = 1.5 * unit;
    context.strokeStyle = "#7ef0d0";
    context.setLineDash([5 * unit, 4 * unit]);
    for (const [start, end] of panel.ranges) for (const edge of [start, end]) { context.beginPath(); context.moveTo(x(edge), 0); context.lineTo(x(edge), height); context.stroke(); }
    if (panel.cutoff) { context.beginPath(); context.moveTo(0, y(panel.cutoff)); context.lineTo(width, y(panel.cutoff)); context.stroke(); }
    context.setLineDash([]);
    context.fillStyle = "rgba(255,255,255,0.85)";
    context.font = `${11 * unit}px system-ui, sans-serif`;
    for (const hertz of [100, 1000, 10000]) if (hertz < panel.rate / 2) context.fillText(hertz >= 1000 ? `${hertz / 1000} kHz` : `${hertz} Hz`, 4 * unit, y(hertz) + 4 * unit);
    context.strokeStyle = "#fff";
    context.beginPath(); context.moveTo(x(at), 0); context.lineTo(x(at), height); context.stroke();
  };

  /* What all samples share, this one, and where they are few the others of its file as well. */
  const whole = (section, sample) => {
    const others = section.samples.length > FEW ? [] : section.samples.filter(other => other !== sample && other.panel && other.panel.group === sample.panel.group);
    return { ...sample.panel, tracks: [...(section.shared?.tracks || []), ...sample.panel.tracks, ...others.flatMap(other => other.panel.tracks.filter(track => !sample.panel.tracks.some(own => own.name === track.name)))] };
  };

  return {
    draw(place, section, sample, page) {
      const { h, format } = page, panel = whole(section, sample), player = new Player(panel);
      const group = `track-${section.title}-${sample.id}-${page.data.sections.indexOf(section)}`;
      const play = h("button", { class: "plain", type: "button", "aria-label": "Play or pause", click: () => player.toggle() }, "▶ play");
      const slider = h("input", { type: "range", min: 0, max: panel.seconds, step: 0.001, value: 0, "aria-label": "Position in seconds", style: { flex: "1 1 10rem" }, input: () => player.seek(Number(slider.value)) });
      const time = h("span", { class: "small soft", style: { minWidth: "9ch" } });
      const loop = h("input", { type: "checkbox", change: async () => { const on = player.begun !== null; if (on) player.pause(); player.loop = loop.checked; if (on) await player.play(); } });
      const choices = panel.tracks.map((track, i) => {
        const input = h("input", { type: "radio", name: group, value: i, checked: i === 0, change: () => player.choose(i) });
        return h("label", { class: "small" }, input, ` ${track.name}`, track.gain ? h("span", { class: "soft" }, ` ${format(track.gain, 1)} dB`) : null);
      });
      const names = [...new Set(panel.tracks.flatMap(track => Object.keys(track.numbers)))];
      const images = panel.tracks.map(track => { const image = new Image(); image.src = track.spectrogram; return image; });
      const canvases = panel.tracks.map((track, i) => h("canvas", { role: "img", "aria-label": `Spectrogram of ${track.name}`, "data-pane": `spectrogram ${i}`, style: { cursor: "crosshair" },
        click: event => { const box = event.currentTarget.getBoundingClientRect(); player.seek(((event.clientX - box.left) / box.width) * panel.seconds); } }));
      const draw = () => {
        const at = player.now;
        canvases.forEach((canvas, i) => { if (images[i].complete) paint(canvas, images[i], panel, at); canvas.style.outline = i === player.chosen ? "2px solid var(--accent)" : "none"; });
        slider.value = at;
        time.textContent = clock(at + panel.shift);
        play.textContent = player.begun === null ? "▶ play" : "❚❚ pause";
      };
      player.moved = draw;
      place.player = player;
      place.append(
        h("div", { class: "card" }, h("div", { class: "buttons" }, play, slider, time, panel.ranges.length ? h("label", { class: "small soft" }, loop, " around the gap") : null),
          h("div", { class: "buttons", role: "radiogroup", "aria-label": "Version" }, choices),
          h("p", { class: "small soft" }, "All at one level; another version goes on at the same place." + (panel.excerpt ? ` An excerpt from ${clock(panel.shift)} on.` : ""))),
        h("div", { class: "two panes", style: { marginTop: "1rem" } }, panel.tracks.map((track, i) => h("figure", {}, canvases[i], h("figcaption", {}, track.name)))),
        names.length ? h("div", { class: "scroll", style: { marginTop: "1rem" } }, h("table", {},
          h("thead", {}, h("tr", {}, h("th", {}, "version"), names.map(name => h("th", { class: "number" }, name)))),
          h("tbody", {}, panel.tracks.map(track => h("tr", {}, h("td", {}, track.name), names.map(name => h("td", { class: "number" }, format(track.numbers[name]))))))))  : "");
      if (panel.ranges.length) {
        const seams = h("div", { class: "two", style: { marginTop: "1rem" } });
        place.append(seams);
        panel.ranges.flat().forEach((at, n) => {
          const chart = h("div", { class: "chart", role: "img", "aria-label": `Waveforms at ${clock(at)}`, "data-pane": `seam ${n}` });
          seams.append(h("div", { class: "card" }, chart));
          const half = (panel.tracks[0].seams[n].length - 1) / 2;
          page.chart(chart, panel.tracks.map((track, i) => ({ x: track.seams[n].map((_, k) => ((k - half) / panel.rate) * 1000), y: track.seams[n].map(v => v / 1e4), mode: "lines", name: page.plainText(track.name), line: { color: page.colour(i), width: i === 0 ? 1 : 1.8, dash: i === 0 ? "dot" : "solid" } })),
            { title: `${n % 2 ? "End" : "Start"} of the gap at ${clock(at + panel.shift)}`, xaxis: { title: { text: "ms" } }, showlegend: true, height: 300,
              shapes: [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: 0, x1: 0, line: { color: "#8d8a99", width: 1, dash: "dash" } }] });
        });
      }
      Promise.all(images.map(image => image.decode())).then(() => { draw(); place.dataset.ready = "yes"; });
      new ResizeObserver(draw).observe(place);
      document.getElementById("sample").addEventListener("leave", () => { if (player.begun !== null) player.pause(); player.context?.close(); player.context = null; }, { once: true });
    },
  };
})());

// Charts over one axis. All charts of an axis show the same part of it, and zoom together.
class Axis {
  constructor(length, name) {
    this.length = length;
    this.name = name;
    this.from = 0;
    this.to = length;
    this.watchers = [];
  }
  show(from, to) {
    const span = Math.min(Math.max(to - from, Math.min(4, this.length)), this.length);
    this.from = Math.min(Math.max(from, 0), this.length - span);
    this.to = this.from + span;
    for (const watcher of this.watchers) watcher();
  }
  zoom(factor, at = 0.5) {
    const span = (this.to - this.from) * factor;
    const middle = this.from + (this.to - this.from) * at;
    this.show(middle - span * at, middle + span * (1 - at));
  }
  move(share) {
    const by = (this.to - this.from) * share;
    this.show(this.from + by, this.to + by);
  }
  all() { this.show(0, this.length); }
  get zoomed() { return this.to - this.from < this.length; }
}
function nice(most, ofBytes) {
  if (!(most > 0)) return 1;
  if (ofBytes && most >= 1024) {
    const unit = 1024 ** Math.floor(Math.log(most) / Math.log(1024));
    return nice(most / unit) * unit;
  }
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= most);
}
const WIDTH = 1000, HEIGHT = 190, LEFT = 62, RIGHT = 12, TOP = 10, BOTTOM = 24, COLUMNS = 240;
// series: {name, color, of(group)}; joined(groups) makes one of neighbours; kind: "columns" (stacked) or "lines".
function chart({ id, title, about, kind, axis, groups, join, series, format, label, max, told, marks }) {
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", id, tabindex: "0", role: "img", "aria-label": `${title}. Arrow keys read it step by step, plus and minus zoom.` });
  const readout = make("div", { class: "readout hint", id: `${id}-readout`, "aria-live": "polite" });
  let shown = [];
  let cursor = -1;
  function parts() {
    const [from, to] = [Math.floor(axis.from), Math.ceil(axis.to)];
    const each = Math.max(1, Math.ceil((to - from) / COLUMNS));
    const out = [];
    for (let at = from - (from % each); at < to; at += each) out.push(join(groups.slice(at, at + each)));
    return out;
  }
  function show() {
    const box = svg.getBoundingClientRect();
    const width = box.width > 0 ? box.width : WIDTH;
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    shown = parts();
    const values = shown.map((group) => series.map((one) => one.of(group)));
    const tops = values.map((row) => kind === "columns" ? row.reduce((a, b) => a + (b || 0), 0) : Math.max(0, ...row.filter((v) => v !== null)));
    const top = max || nice(tops.reduce((a, b) => Math.max(a, b), 0), format === bytes);
    const [w, h] = [width - LEFT - RIGHT, HEIGHT - TOP - BOTTOM];
    const y = (value) => TOP + h - (value / top) * h;
    const slot = w / Math.max(shown.length, 1);
    const nodes = [];
    for (const share of [0, 0.5, 1]) {
      const at = Math.round(y(top * share)) + 0.5;
      nodes.push(draw("line", { x1: LEFT, x2: width - RIGHT, y1: at, y2: at, class: share ? "grid" : "base" }));
      nodes.push(draw("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end", text: format(top * share) }));
    }
    const steps = Math.max(1, Math.ceil(shown.length / Math.max(2, Math.floor(w / 110))));
    shown.forEach((group, at) => {
      if (at % steps === 0) nodes.push(draw("text", { x: LEFT + slot * (at + 0.5), y: HEIGHT - 6, "text-anchor": "middle", text: label(group) }));
    });
    for (const mark of marks ? marks(shown) : []) {
      const x = LEFT + slot * (mark.at + 0.5);
      nodes.push(draw("line", { x1: x, x2: x, y1: TOP, y2: y(0), class: `mark ${mark.level}` }));
    }
    if (kind === "columns") {
      const thick = Math.max(1, Math.min(slot - (slot > 4 ? 2 : slot > 2 ? 0.5 : 0), 28));
      values.forEach((row, at) => {
        let below = 0;
        row.forEach((value, which) => {
          if (!value) return;
          const [low, high] = [y(below), y(below + value)];
          const tall = Math.max(0.75, low - high - (below > 0 && low - high > 3 ? 1.5 : 0));
          nodes.push(draw("rect", { x: LEFT + slot * (at + 0.5) - thick / 2, y: low - tall - (below > 0 && low - high > 3 ? 1.5 : 0), width: thick, height: tall, fill: series[which].color, rx: Math.min(2, thick / 4, tall / 2) }));
          below += value;
        });
      });
    } else {
      series.forEach((one, which) => {
        let path = "";
        let pen = false;
        values.forEach((row, at) => {
          const value = row[which];
          if (value === null || value === undefined) { pen = false; return; }
          path += `${pen ? "L" : "M"}${(LEFT + slot * (at + 0.5)).toFixed(1)} ${y(value).toFixed(1)}`;
          if (!pen && (at + 1 >= values.length || values[at + 1][which] === null)) path += "h0.01";
          pen = true;
        });
        nodes.push(draw("path", { d: path || "M0 0", class: "line", stroke: one.color, "stroke-width": 2 }));
      });
    }
    svg.replaceChildren(...nodes);
    point(Math.min(cursor, shown.length - 1));
  }
  function point(at) {
    svg.querySelector(".cursor")?.remove();
    cursor = at;
    if (at < 0 || !shown[at]) { readout.textContent = about; return; }
    const width = svg.viewBox.baseVal.width;
    const x = LEFT + ((width - LEFT - RIGHT) / shown.length) * (at + 0.5);
    svg.append(draw("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" }));
    const group = shown[at];
    const texts = series.map((one) => one.of(group) === null ? `${one.name} –` : `${one.name} ${(one.format || format)(one.of(group))}`);
    readout.textContent = `${told ? told(group) : label(group)}: ${texts.join(", ")}`;
  }
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)));
  };
  svg.addEventListener("mousemove", (event) => point(Math.min(shown.length - 1, Math.floor(place(event) * shown.length))));
  svg.addEventListener("mouseleave", () => point(-1));
  svg.addEventListener("blur", () => point(-1));
  svg.addEventListener("keydown", (event) => {
    const at = cursor < 0 ? 0.5 : (cursor + 0.5) / shown.length;
    if (event.key === "ArrowRight") point(Math.min(shown.length - 1, cursor + 1));
    else if (event.key === "ArrowLeft") point(Math.max(0, cursor - 1));
    else if (event.key === "Home") point(0);
    else if (event.key === "End") point(shown.length - 1);
    else if (event.key === "+" || event.key === "=") axis.zoom(0.5, at);
    else if (event.key === "-") axis.zoom(2, at);
    else if (event.key === "0") axis.all();
    else return;
    event.preventDefault();
  });
  axis.watchers.push(show);
  window.addEventListener("resize", show);
  const legend = series.length > 1 ? make("div", { class: "legend" }, series.map((one) => {
    const mark = make("i");
    mark.style.background = one.color;
    return make("span", {}, mark, one.name);
  })) : null;
  return { element: make("figure", {}, make("h3", { text: title }), legend, svg, readout), show };
}
function zoomTools(id, axis, more) {
  const readout = make("span", { class: "readout", id: `${id}-range`, "aria-live": "polite" });
  const button = (name, text, act) => make("button", { type: "button", id: `${id}-${name}`, text, onclick: act });
  const all = button("all", "All", () => axis.all());
  const [left, right] = [button("left", "◀", () => axis.move(-0.5)), button("right", "▶", () => axis.move(0.5))];
  left.setAttribute("aria-label", "earlier");
  right.setAttribute("aria-label", "later");
  const show = () => {
    readout.textContent = axis.name(axis);
    all.disabled = left.disabled = right.disabled = !axis.zoomed;
  };
  axis.watchers.push(show);
  show();
  return make("div", { class: "tools" }, button("in", "Zoom in", () => axis.zoom(0.5)), button("out", "Zoom out", () => axis.zoom(2)), all, left, right, more ? button("more", more[0], more[1]) : null, readout);
}

// Which page frames were sent, when, and how often: rows are page frames, columns are steps.
const MAP_LEFT = 78, MAP_BOTTOM = 22;
function pageMap(grid, axis, stepsPerGroup) {
  const canvas = make("canvas", { id: "map", tabindex: "0", role: "img", "aria-label": "Page map: page frames from top to bottom, steps from left to right. Arrow keys move, plus and minus zoom, 0 shows all, page keys zoom the steps alone." });
  const readout = make("div", { class: "readout hint", id: "map-readout", "aria-live": "polite" });
  const rows = grid.rows;
  const most = rows.reduce((top, row) => row.cells.reduce((best, cell) => Math.max(best, cell[1]), top), 1);
  const view = { from: 0, to: rows.length };
  const last = (row) => BigInt(row.pfn) + BigInt(grid.pfns_per_row) - 1n;
  // Columns of the grid that the axis shows.
  const groupsPerColumn = grid.steps_per_column / stepsPerGroup;
  const columns = () => [axis.from / groupsPerColumn, axis.to / groupsPerColumn];
  const about = () => {
    const many_ = view.to - view.from < rows.length;
    const [top, bottom] = [rows[Math.floor(view.from)], rows[Math.min(rows.length - 1, Math.ceil(view.to) - 1)]];
    return `${many_ ? "Shown" : "All"}: pfns ${hex(top.pfn)} to ${hex(last(bottom))}, ${many(grid.pfns_per_row, "page frame")} a row`;
  };
  function colors() {
    const style = getComputedStyle(document.documentElement);
    const parse = (name) => [1, 3, 5].map((at) => parseInt(style.getPropertyValue(name).trim().slice(at, at + 2), 16));
    return [parse("--heat-0"), parse("--heat-1"), style.getPropertyValue("--sunken"), style.getPropertyValue("--ink-2")];
  }
  function show() {
    const box = canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [Math.max(1, Math.round((box.width || 1000) * scale)), Math.max(1, Math.round((box.height || 420) * scale))];
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    const [low, high, surface, ink] = colors();
    const [from, to] = columns();
    const [left, bottom] = [MAP_LEFT * scale, MAP_BOTTOM * scale];
    const [inner, depth] = [width - left, height - bottom];
    const tall = depth / (view.to - view.from);
    const wide = inner / (to - from);
    const scaleOf = Math.log(1 + most);
    pen.fillStyle = surface;
    pen.fillRect(left, 0, inner, depth);
    // Rows that are less than a pixel high: the fullest one is seen.
    const lines = new Map();
    for (let at = Math.floor(view.from); at < Math.min(rows.length, Math.ceil(view.to)); at += 1) {
      const top = Math.floor((at - view.from) * tall);
      const cells = lines.get(top) || new Map();
      for (const [column, sent] of rows[at].cells) {
        if (column + 1 < from || column > to) continue;
        cells.set(column, Math.max(cells.get(column) || 0, sent));
      }
      lines.set(top, cells);
    }
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, inner, depth);
    pen.clip();
    for (const [top, cells] of lines) {
      for (const [column, sent] of cells) {
        const share = Math.log(1 + sent) / scaleOf;
        pen.fillStyle = `rgb(${low.map((value, which) => Math.round(value + (high[which] - value) * share)).join(",")})`;
        const start = Math.floor(left + (column - from) * wide);
        const gap = wide > 6 * scale ? scale : 0;
        const end = Math.floor(left + (column + 1 - from) * wide);
        pen.fillRect(start, top, Math.max(1, end - start - gap), Math.max(1, tall > 6 * scale ? Math.floor(tall) - scale : Math.ceil(tall)));
      }
    }
    // Where page frames that were never sent are left out between two rows.
    pen.strokeStyle = ink;
    pen.lineWidth = scale;
    pen.setLineDash([3 * scale, 4 * scale]);
    let drawn = -99;
    for (let at = Math.max(1, Math.ceil(view.from)); at < Math.min(rows.length, Math.ceil(view.to)); at += 1) {
      if (last(rows[at - 1]) + 1n === BigInt(rows[at].pfn)) continue;
      const top = Math.round((at - view.from) * tall) + 0.5;
      if (top - drawn < 6 * scale) continue;
      drawn = top;
      pen.beginPath();
      pen.moveTo(left, top);
      pen.lineTo(width, top);
      pen.stroke();
    }
    pen.restore();
    pen.fillStyle = ink;
    pen.font = `${11.5 * scale}px ${getComputedStyle(document.body).fontFamily}`;
    pen.textAlign = "right";
    const labels = Math.max(2, Math.floor(depth / (60 * scale)));
    for (let label = 0; label <= labels; label += 1) {
      const at = view.from + ((view.to - view.from) * label) / labels;
      const row = rows[Math.min(rows.length - 1, Math.floor(at))];
      const y = Math.min(depth - 2 * scale, Math.max(10 * scale, (label / labels) * depth + 4 * scale));
      pen.fillText(hex(label === labels ? last(rows[Math.min(rows.length, Math.ceil(view.to)) - 1]) : row.pfn), left - 8 * scale, y);
    }
    pen.textAlign = "center";
    const each = Math.max(1, Math.ceil((to - from) / Math.max(2, Math.floor(inner / (90 * scale)))));
    for (let column = Math.ceil(from); column < to; column += each) {
      const x = left + (column + 0.5 - from) * wide;
      if (x < width - 16 * scale) pen.fillText(axis.short(column, grid), x, height - 6 * scale);
    }
    canvas.dataset.rows = `${view.from.toFixed(2)}-${view.to.toFixed(2)}`;
    readout.textContent = about();
  }
  function frames(from, to) {
    const span = Math.min(Math.max(to - from, Math.min(8, rows.length)), rows.length);
    view.from = Math.min(Math.max(from, 0), rows.length - span);
    view.to = view.from + span;
    show();
  }
  function zoom(factor, at = 0.5) {
    const span = (view.to - view.from) * factor;
    const middle = view.from + (view.to - view.from) * at;
    frames(middle - span * at, middle + span * (1 - at));
  }
  const move = (share) => frames(view.from + (view.to - view.from) * share, view.to + (view.to - view.from) * share);
  const all = () => { view.from = 0; view.to = rows.length; axis.all(); };
  const keys = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": all,
    ArrowUp: () => move(-0.25), ArrowDown: () => move(0.25),
    ArrowLeft: () => axis.move(-0.25), ArrowRight: () => axis.move(0.25),
    PageUp: () => axis.zoom(2), PageDown: () => axis.zoom(0.5),
  };
  canvas.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left - MAP_LEFT) / (box.width - MAP_LEFT), (event.clientY - box.top) / (box.height - MAP_BOTTOM)].map((share) => Math.max(0, Math.min(0.9999, share)));
  };
  let grabbed = null;
  canvas.addEventListener("pointerdown", (event) => { grabbed = place(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { grabbed = null; });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (grabbed) {
      const [dx, dy] = [grabbed[0] - x, grabbed[1] - y];
      grabbed = [x, y];
      if (axis.zoomed) axis.move(dx);
      move(dy);
      return;
    }
    const [from, to] = columns();
    const column = Math.floor(from + x * (to - from));
    const row = rows[Math.min(rows.length - 1, Math.floor(view.from + y * (view.to - view.from)))];
    const cell = row.cells.find((cell) => cell[0] === column);
    readout.textContent = `pfns ${hex(row.pfn)} to ${hex(last(row))}, ${axis.column(column, grid)}: ${many(cell ? cell[1] : 0, "page")} sent`;
  });
  canvas.addEventListener("pointerleave", () => { grabbed = null; readout.textContent = about(); });
  canvas.addEventListener("dblclick", (event) => { const [x, y] = place(event); zoom(0.5, y); axis.zoom(0.5, x); });
  axis.watchers.push(show);
  window.addEventListener("resize", show);
  const button = (name, text, act) => make("button", { type: "button", id: `map-${name}`, text, onclick: act });
  const find = make("input", { id: "map-find", type: "text", size: "14", placeholder: "go to pfn, 0x10", "aria-label": "Go to page frame", onkeydown: (event) => {
    if (event.key !== "Enter") return;
    let wanted;
    try { wanted = BigInt(event.target.value.trim()); } catch { readout.textContent = "no number: 42 or 0x2a"; return; }
    const at = rows.findIndex((row) => last(row) >= wanted);
    if (at < 0 || BigInt(rows[at].pfn) > wanted) { readout.textContent = `pfn ${hex(wanted)} was never sent`; return; }
    frames(at - 12, at + 12);
  } });
  const tools = make("div", { class: "tools" }, button("in", "Zoom in", () => zoom(0.5)), button("out", "Zoom out", () => zoom(2)), button("up", "▲", () => move(-0.5)), button("down", "▼", () => move(0.5)), button("all", "All", all), find,
    make("span", { class: "legend readout" }, make("span", {}, "1 page", make("span", { class: "ramp" }), `${many(most, "page")} a cell`)));
  tools.querySelector("#map-up").setAttribute("aria-label", "lower page frames");
  tools.querySelector("#map-down").setAttribute("aria-label", "higher page frames");
  return { element: make("div", { class: "map" }, tools, canvas, readout), show };
}

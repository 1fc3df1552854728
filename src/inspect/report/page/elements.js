// Elements, numbers and names. All text goes into the page by textContent.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) element.append(child);
  return element;
}
function draw(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "text") element.textContent = value;
    else element.setAttribute(key, value);
  }
  return element;
}
const count = (value) => Number(value).toLocaleString("en-US");
const hex = (value) => "0x" + BigInt(value).toString(16);
const many = (value, word) => `${count(value)} ${word}${Number(value) === 1 ? "" : "s"}`;
function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
function millis(us) {
  if (us === 0) return "0 ms";
  if (us >= 1e6) return `${(us / 1e6).toFixed(2)} s`;
  return us >= 1e5 ? `${Math.round(us / 1e3)} ms` : `${(us / 1e3).toFixed(us >= 1e4 ? 1 : 2)} ms`;
}
function moment(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
const percent = (value) => `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
const short = (value) => {
  if (value >= 1e9) return `${+(value / 1e9).toPrecision(3)} G`;
  if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)} M`;
  return value >= 1e3 ? `${+(value / 1e3).toPrecision(3)} k` : String(+value.toPrecision(3));
};
function section(id, title, ...children) {
  const element = make("section", { id, "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title`, text: title }), children);
  document.getElementById("main").append(element);
  document.getElementById("nav").append(make("a", { href: `#${id}`, text: title }));
  return element;
}
const badge = (kind, text) => make("span", { class: `badge ${kind}`, text });
const hint = (text) => make("p", { class: "hint", text });
function tiles(list) {
  const box = make("div", { class: "tiles" });
  for (const [value, name] of list.filter(Boolean)) box.append(make("div", { class: "tile" }, make("b", { text: value }), make("span", { text: name })));
  return box;
}
function facts(list) {
  const box = make("dl");
  for (const [name, value] of list) if (value) box.append(make("dt", { text: name }), make("dd", { text: value }));
  return box;
}
// A table of at most `rows` lines at once, each line made when it is shown.
function table(id, columns, rows, line, none) {
  const body = make("tbody");
  const head = make("tr", {}, columns.map(([name, kind]) => make("th", { scope: "col", class: kind || false, text: name })));
  const readout = make("span", { class: "readout", id: `${id}-count`, "aria-live": "polite" });
  const size = 100;
  let list = rows;
  let first = 0;
  const go = (to) => { first = Math.max(0, Math.min(to, Math.floor((list.length - 1) / size) * size)); show(); };
  const earlier = make("button", { type: "button", id: `${id}-earlier`, text: "Earlier", onclick: () => go(first - size) });
  const later = make("button", { type: "button", id: `${id}-later`, text: "Later", onclick: () => go(first + size) });
  const start = make("button", { type: "button", text: "First", onclick: () => go(0) });
  const end = make("button", { type: "button", text: "Last", onclick: () => go(list.length) });
  function show() {
    body.replaceChildren(...list.slice(first, first + size).map(line));
    const last = Math.min(first + size, list.length);
    readout.textContent = list.length ? `${count(first + 1)} to ${count(last)} of ${count(list.length)}` : none || "none";
    earlier.disabled = start.disabled = first === 0;
    later.disabled = end.disabled = last >= list.length;
  }
  show();
  const wrap = make("div", { class: "tablewrap", tabindex: "0", role: "region", "aria-label": columns.map(([name]) => name).join(", ") },
    make("table", { id }, make("thead", {}, head), body));
  const tools = make("div", { class: "tools" }, start, earlier, later, end, readout);
  return { element: make("div", {}, wrap, tools), set: (rows) => { list = rows; first = 0; show(); }, tools };
}

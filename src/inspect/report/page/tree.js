// A decoded value, opened level by level; a level is made when it is opened.
const TREE_MOST = 500;
function tree(value) {
  const box = make("div", { class: "tree mono" });
  const entries = Object.entries(value);
  for (const [key, inner] of entries.slice(0, TREE_MOST)) box.append(branch(Array.isArray(value) ? named(key, inner) : key, inner));
  if (entries.length > TREE_MOST) box.append(make("div", { class: "leaf hint", text: `${count(entries.length - TREE_MOST)} more: dump -v shows them` }));
  return box;
}
function named(key, inner) {
  const name = inner && typeof inner === "object" && (inner.name || inner.key || inner.leaf);
  return name ? `${key} ${name}` : key;
}
function branch(key, value) {
  if (value === null || typeof value !== "object") {
    const text = value === null ? "–" : typeof value === "number" && value > 255 ? `${value} (${Number.isSafeInteger(value) ? hex(value) : "rounded"})` : String(value);
    return make("div", { class: "leaf" }, make("span", { class: "key", text: `${key}: ` }), text);
  }
  const size = Object.keys(value).length;
  if (size === 0) return make("div", { class: "leaf" }, make("span", { class: "key", text: `${key}: ` }), "none");
  if (Array.isArray(value) && value.every((one) => one === null || typeof one !== "object") && JSON.stringify(value).length < 160) {
    return make("div", { class: "leaf" }, make("span", { class: "key", text: `${key}: ` }), value.join(" "));
  }
  return opening(key, Array.isArray(value) ? many(size, "entry").replace("entrys", "entries") : "", () => tree(value));
}
function opening(title, more, inside, id) {
  const details = make("details", { id: id || false }, make("summary", {}, title, make("span", { class: "hint", text: more })));
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(inside()); });
  return details;
}

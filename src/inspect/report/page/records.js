// The records as a table that can be searched.
function recordTable(records) {
  const lines = [];
  records.lines.forEach((line, at) => {
    const before = at > 0 ? records.lines[at - 1].index + 1 : 0;
    if (line.index > before) lines.push({ gap: line.index - before });
    lines.push(line);
  });
  for (const line of lines) line.text = line.gap ? "" : `${line.index} ${hex(line.offset)} ${line.layer} ${line.type} ${line.summary}`.toLowerCase();
  const cell = (text, kind) => make("td", { class: kind || false, text });
  const shown = table("records-table", [["index", "n"], ["offset", "n"], ["layer", "s"], ["round", "n"], ["type", "s"], ["length", "n"], ["summary"]], lines, (line) => {
    if (line.gap) return make("tr", { class: "gap" }, make("td", { colspan: "7", text: `${many(line.gap, "record")} not listed here: dump --round or --from shows them` }));
    return make("tr", { id: `record-${line.index}` }, cell(count(line.index), "n"), cell(hex(line.offset), "n mono"), cell(line.layer, "s"), cell(count(line.round), "n"),
      cell(line.type, "s mono"), cell(count(line.length), "n"), cell(line.summary, "wide"));
  }, "no record that is listed here is like that: dump has all");
  const words = make("input", { id: "records-search", class: "grow", type: "search", placeholder: "type, offset, words of the summary …", "aria-label": "Search records" });
  const type = make("select", { id: "records-type", "aria-label": "Type" }, make("option", { value: "", text: "all types" }),
    Object.entries(records.types).map(([name, number]) => make("option", { value: name, text: `${name} (${count(number)})` })));
  const layer = make("select", { id: "records-layer", "aria-label": "Layer" }, make("option", { value: "", text: "all layers" }),
    [...new Set(records.lines.map((line) => line.layer))].map((name) => make("option", { value: name, text: name })));
  const round = make("input", { id: "records-round", type: "text", size: "10", placeholder: "round, 3-7", "aria-label": "Rounds" });
  function filter() {
    const wanted = words.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const span = /^\s*(\d+)\s*(?:(-)\s*(\d*))?\s*$/.exec(round.value);
    const [low, high] = span ? [Number(span[1]), span[2] ? (span[3] ? Number(span[3]) : Infinity) : Number(span[1])] : [0, Infinity];
    round.setAttribute("aria-invalid", round.value.trim() && !span ? "true" : "false");
    const any = wanted.length || type.value || layer.value || span;
    shown.set(!any ? lines : lines.filter((line) => !line.gap && wanted.every((word) => line.text.includes(word)) && (!type.value || line.type === type.value)
      && (!layer.value || line.layer === layer.value) && line.round >= low && line.round <= high));
  }
  for (const input of [words, type, layer, round]) input.addEventListener("input", filter);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && words.isConnected && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName || "")) { event.preventDefault(); words.focus(); }
  });
  const find = (index) => { type.value = layer.value = round.value = ""; words.value = ""; shown.set(lines.filter((line) => !line.gap && Math.abs(line.index - index) <= 10)); document.getElementById("records").scrollIntoView(); };
  return { element: make("div", {}, make("div", { class: "tools" }, words, type, layer, round), shown.element), find };
}

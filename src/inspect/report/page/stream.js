// A migration stream's page.
function streamPage(data) {
  const { info, total, timeline, map, records, state } = data;
  const known = (value) => value || "not known";
  document.getElementById("verdict").replaceChildren(badge(info.valid ? "good" : "bad", info.valid ? "✓ valid" : "✗ NOT valid"));
  const checkpoints = info.checkpoints > 0 || timeline.groups.some((group) => group.round > 0);
  const summary = section("summary", "Summary");
  if (info.start) {
    summary.append(
      make("p", { text: info.valid ? `A receiver can take it; ${many(info.remarks, "remark")}.` : `A receiver must refuse it: ${many(info.errors, "error")}, ${many(info.remarks, "remark")}.` }),
      tiles([[bytes(info.bytes), `in ${many(info.records, "record")}`], [count(total.pages), `pages, ${bytes(total.pages * 4096)}`],
        [total.pages ? percent(total.zero / total.pages) : "–", "of them zero"],
        [total.again ? percent(total.unchanged / total.again) : "–", `of ${count(total.again)} sent again unchanged`],
        total.sampled > 0 ? [percent(1 - total.compressed / (total.sampled * 4096)), "LZ4 would save of the rest"] : null, checkpoints ? [count(info.checkpoints), "whole checkpoints"] : [count(timeline.steps), timeline.steps === 1 ? "pass over memory" : "passes over memory"]]));
  } else {
    summary.append(make("p", { text: "No stream that is known." }));
  }
  const { guest, saved, vcpus, memory, devices } = info;
  summary.append(facts([
    ["stream", info.start && `${info.start}, ${info.mode}`], ["in", data.said.container], ["found", data.said.foreign],
    ["guest", info.start && `${known(guest.name)}, UUID ${known(guest.uuid)}`],
    ["type", info.start && `${known(guest.domain)}${guest.bits ? `, ${guest.bits} bits` : ""}${guest.type ? `, configured as ${guest.type}` : ""}`],
    ["saved by", info.start && `Xen ${known(saved.xen)}${saved.stream_version ? `, stream version ${saved.stream_version}` : ""}`],
    ["CPU", saved.cpu], ["vCPUs", info.start && `${vcpus.with_state}${vcpus.max ? ` of ${vcpus.max}` : ""} with state`],
    ["memory", info.start && `${memory.max_kib ? `${bytes(memory.max_kib * 1024)} at most, ` : ""}${count(data.distinct_pages)} page frames with contents, ${count(data.sent_more_than_once)} sent more than once`],
    ["device model", info.emulator && `${info.emulator.name}, state of ${bytes(info.emulator.bytes)}${info.emulator.sections ? `, ${info.emulator.sections} sections` : ""}`],
    ["disks", devices.disks.join(", ")], ["nics", devices.nics.join(", ")], ["devices", devices.others.join(", ")],
    ["fits", data.said.fits]]));

  const table_ = recordTable(records);
  const findings = section("findings", `Findings (${count(data.findings.length + data.findings_left_out)})`);
  if (data.findings.length === 0) findings.append(make("p", { text: "None: nothing that a receiver refuses, and nothing to remark." }));
  const list = make("ul", { class: "findings" });
  for (const finding of data.findings.slice(0, 200)) {
    const record = finding.record === null || !info.start ? null : make("button", { type: "button", text: "Show the record", onclick: () => table_.find(finding.record) });
    list.append(make("li", {}, badge(finding.severity === "error" ? "bad" : "note", finding.severity), make("span", { class: "what", text: finding.message }),
      make("span", { class: "where" }, `${finding.layer}${finding.record === null ? "" : `, record ${count(finding.record)}`}, offset ${count(finding.offset)} (${hex(finding.offset)}) `, record)));
  }
  findings.append(list);
  const more = data.findings.length + data.findings_left_out - Math.min(200, data.findings.length);
  if (more > 0) findings.append(hint(`${count(more)} more: verify --all lists them.`));
  if (!info.start) return [];

  const shows = [];
  const groups = timeline.groups;
  const name = (group) => {
    const first = group.iteration > 0 || (groups[0].last_round === 0 && groups.length > 1 && group.round === 0) ? `${group.round}.${group.iteration}` : String(group.round);
    return group.last_round > group.round ? `${group.round}–${group.last_round}` : first;
  };
  const long = (group) => {
    if (group.steps > 1) return group.last_round > group.round ? `rounds ${count(group.round)} to ${count(group.last_round)}, ${many(group.steps, "pass").replace("passs", "passes")}` : `round ${count(group.round)}, ${group.steps} passes`;
    return `round ${count(group.round)}${group.iteration > 0 ? `, pass ${group.iteration}` : ""}`;
  };
  const join = (list) => list.reduce((sum, one) => {
    if (!sum) return { ...one };
    for (const key of ["steps", "bytes", "page_records", "entries", "pages", "zero", "again", "changed", "unchanged", "sampled", "compressed"]) sum[key] += one[key];
    sum.most_pages = Math.max(sum.most_pages, one.most_pages);
    sum.last_round = one.last_round;
    return sum;
  }, null);
  const axis = new Axis(groups.length, (axis) => {
    const part = join(groups.slice(Math.floor(axis.from), Math.ceil(axis.to)));
    return `${axis.zoomed ? "shown" : "all"}: ${long(part)}`;
  });
  const part = (column, grid) => {
    const each = grid.steps_per_column / timeline.steps_per_group;
    return join(groups.slice(Math.floor(column * each), Math.max(Math.floor(column * each) + 1, Math.floor((column + 1) * each))));
  };
  axis.column = (column, grid) => { const one = part(column, grid); return one ? long(one) : "nothing"; };
  axis.short = (column, grid) => { const one = part(column, grid); return one ? name(one) : ""; };
  const color = (name) => `var(--${name})`;
  const common = { axis, groups, join, label: name, told: long };
  const charts = [
    chart({ ...common, id: "chart-pages", title: "Pages", kind: "columns", format: short, about: "Pages with contents: for the first time, or again with other or the same contents.", series: [
      { name: "first time", color: color("s1"), of: (g) => g.pages - g.again, format: count },
      { name: "again, changed", color: color("s2"), of: (g) => g.changed, format: count },
      { name: "again, unchanged", color: color("s3"), of: (g) => g.unchanged, format: count }] }),
    chart({ ...common, id: "chart-bytes", title: "Bytes", kind: "columns", format: bytes, about: "Bytes of the stream.", series: [{ name: "bytes", color: color("s1"), of: (g) => g.bytes }] }),
    chart({ ...common, id: "chart-shares", title: "Shares", kind: "lines", format: percent, max: 1, about: `Shares of pages; what LZ4 saves is of the pages that are not zero, by a sample of one in ${data.sample}.`, series: [
      { name: "zero", color: color("s1"), of: (g) => g.pages ? g.zero / g.pages : null },
      { name: "unchanged, of those sent again", color: color("s3"), of: (g) => g.again ? g.unchanged / g.again : null },
      { name: "saved by LZ4", color: color("s4"), of: (g) => g.sampled ? 1 - g.compressed / (g.sampled * 4096) : null }] }),
  ];
  const first = groups.findIndex((group) => group.round > 0);
  const steps = section("rounds", checkpoints ? "Rounds" : "Passes",
    hint(`A pass goes over the guest's memory once; round 0 is the first image, with as many passes as the live save took, and each further round is a checkpoint.${timeline.steps_per_group > 1 ? ` ${count(timeline.steps)} passes, ${timeline.steps_per_group} of them in each group here.` : ""}`),
    zoomTools("rounds", axis, first > 0 ? ["Without the first image", () => axis.show(first, groups.length)] : null), charts.map((chart) => chart.element));
  shows.push(...charts.map((chart) => chart.show));
  const figures = table("rounds-table", [[timeline.steps_per_group > 1 ? "rounds" : "round"], ["passes", "n"], ["bytes", "n"], ["pages", "n"], ["zero", "n"], ["again", "n"], ["changed", "n"], ["unchanged", "n"], ["LZ4 saves", "n"]], groups, (g) =>
    make("tr", {}, make("td", { text: name(g) }), [g.steps, g.bytes, g.pages, g.zero, g.again, g.changed, g.unchanged].map((value) => make("td", { class: "n", text: count(value) })),
      make("td", { class: "n", text: g.sampled ? percent(1 - g.compressed / (g.sampled * 4096)) : "–" })));
  const numbers = make("details", { id: "rounds-numbers" }, make("summary", { text: "The same in numbers" }), figures.element);
  steps.append(numbers);
  if (data.untracked > 0) steps.append(hint(`${count(data.untracked)} pages beyond those that are kept track of count as sent for the first time.`));

  const place = section("map-section", "Page map", hint(`Which page frames were sent, when, and how often. Page frames run from top to bottom, ${checkpoints ? "rounds" : "passes"} from left to right; page frames that were never sent are left out, with a dashed line in their place. Drag to move, double click to zoom.`));
  if (map.rows.length) {
    const pages = pageMap(map, axis, timeline.steps_per_group);
    place.append(pages.element);
    shows.push(pages.show);
  } else place.append(make("p", { text: "No page with contents." }));

  if (state.changes.length) changesSection(state);
  const decoded = section("state", "State", hint("What the stream leaves of the guest besides its memory, decoded: of each record the last."));
  for (const record of state.records) {
    const title = `${record.record}`;
    const about = `${record.layer}, round ${count(record.round)}, ${bytes(record.bytes)}${record.value === null ? ", not decoded here: dump -v" : ""}`;
    decoded.append(opening(title, about, () => record.value !== null && typeof record.value === "object" ? tree(record.value) : make("div", { class: "leaf mono", text: record.value === null ? "–" : String(record.value) })));
  }
  if (state.left_out > 0) decoded.append(hint(`${count(state.left_out)} more records.`));
  section("records", "Records", hint(`${many(records.total, "item")}${records.left_out ? `, of which ${count(records.left_out)} in the middle are not listed` : ""}. Search with /, page with the buttons.`), table_.element);
  return shows;
}
function changesSection(state) {
  const rounds = state.changes;
  const select = make("select", { id: "changes-round", "aria-label": "Round" }, rounds.map((change, at) => make("option", { value: at, text: `round ${count(change.round)}: ${many(change.count, "field")} in ${many(change.records, "record")}` })));
  const words = make("input", { id: "changes-search", class: "grow", type: "search", placeholder: "rip, tsc, vCPU …", "aria-label": "Search changes" });
  const shown = table("changes-table", [["record"], ["field"], ["before"], ["after"]], [], (change) => make("tr", {}, make("td", { class: "mono", text: change.record }), make("td", { class: "mono wide", text: change.field || "(all of it)" }),
    make("td", { class: "mono wide" }, make("del", { text: change.before })), make("td", { class: "mono wide", text: change.after })), "nothing like that");
  const note = hint("");
  const show = () => {
    const change = rounds[Number(select.value)];
    const wanted = words.value.trim().toLowerCase();
    shown.set(change.fields.filter((field) => !wanted || `${field.record} ${field.field} ${field.before} ${field.after}`.toLowerCase().includes(wanted)));
    note.textContent = change.count > change.fields.length ? `The first ${count(change.fields.length)} of ${count(change.count)} fields; diff --checkpoints has all.` : "";
  };
  const step = (by) => { select.value = String(Math.max(0, Math.min(rounds.length - 1, Number(select.value) + by))); show(); };
  select.addEventListener("input", show);
  words.addEventListener("input", show);
  section("changes", "Differences", hint(`What each checkpoint changed of the guest's state, against the one before; its pages are above. ${state.changes_left_out ? `${count(state.changes_left_out)} rounds in the middle are not here.` : ""} Any two checkpoints: diff --checkpoints N M.`),
    make("div", { class: "tools" }, make("button", { type: "button", id: "changes-before", text: "◀", "aria-label": "the round before", onclick: () => step(-1) }), select, make("button", { type: "button", id: "changes-next", text: "▶", "aria-label": "the next round", onclick: () => step(1) }), words), shown.element, note);
  show();
}

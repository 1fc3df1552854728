// The page of a log of statuses.
function logPage(data) {
  const { samples, last } = data;
  document.getElementById("verdict").replaceChildren(last ? badge(last.protected ? "good" : "bad", last.protected ? "✓ protected" : "✗ NOT protected") : badge("bad", "no status"));
  const summary = section("summary", "Summary");
  if (!last) { summary.append(make("p", { text: `No status in it. ${data.first_bad || ""}` })); return []; }
  const figures = last.statistics;
  const span = samples[samples.length - 1].at - samples[0].at;
  summary.append(make("p", { text: `${many(data.statuses, "status").replace("statuss", "statuses")} of ${data.domain || "a domain"} over ${moment(span)}; the last one: ${[last.role, ...new Set([last.phase, last.protected ? "protected" : "NOT protected"])].join(", ")}.` }),
    tiles([[count(figures.checkpoints), "checkpoints"], [millis(figures.pause.p50), `pause (median); ${millis(figures.pause.p99)} for 99 %`], [millis(figures.output_delay.p50), `output delay (median); ${millis(figures.output_delay.p99)} for 99 %`],
      [bytes(figures.bytes), "of stream"], [count(figures.pages), "pages"], [count(figures.refused), "checkpoints refused"]]),
    facts([["peer", last.peer || "none"], ["rule", `${last.rule}, witness ${last.witness}, generation ${last.generation}`], ["interval", `${last.interval_ms} ms${last.adaptive ? ` (${last.adaptive})` : ""}`], ["alarm", last.alarm]]));
  if (data.bad_lines) summary.append(make("p", {}, badge("bad", "trouble"), ` ${many(data.bad_lines, "line")} of the log no status: ${data.first_bad}`));

  const groups = samples.slice(1).map((now, at) => {
    const then = samples[at];
    const seconds = now.process === then.process ? (now.at - then.at) / 1000 : 0;
    const since = (key) => seconds > 0 ? Math.max(0, now[key] - then[key]) : null;
    return { from: then.at, ...now, seconds, d: { checkpoints: since("checkpoints"), pages: since("pages"), bytes: since("bytes") } };
  });
  const shows = [];
  if (groups.length) {
    const join = (list) => {
      const end = list[list.length - 1];
      const sum = (key) => list.every((one) => one.d[key] === null) ? null : list.reduce((total, one) => total + (one.d[key] || 0), 0);
      return { ...end, from: list[0].from, seconds: list.reduce((total, one) => total + one.seconds, 0), d: { checkpoints: sum("checkpoints"), pages: sum("pages"), bytes: sum("bytes") } };
    };
    const axis = new Axis(groups.length, (axis) => `${axis.zoomed ? "shown" : "all"}: ${moment(groups[Math.floor(axis.from)].from)} to ${moment(groups[Math.ceil(axis.to) - 1].at)}`);
    const rate = (key) => (g) => g.seconds > 0 && g.d[key] !== null ? g.d[key] / g.seconds : null;
    const color = (name) => `var(--${name})`;
    // Where the guest lost its protection, and what comes near to it.
    const loudest = data.events.filter((event) => event.level !== "info");
    const marks = (shown) => shown.flatMap((group, at) => {
      const inside = loudest.filter((event) => event.at > group.from && event.at <= group.at);
      return inside.length ? [{ at, level: inside.some((event) => event.level === "critical") ? "critical" : "warning" }] : [];
    });
    const common = { marks, axis, groups, join, kind: "lines", label: (g) => moment(g.at), told: (g) => `${moment(g.from)} to ${moment(g.at)}` };
    const times = (key) => [["median", "p50", "s1"], ["99 %", "p99", "s2"]].map(([name, field, of]) => ({ name, color: color(of), of: (g) => g[key][field] }));
    const charts = [
      chart({ ...common, id: "chart-pause", title: "Pauses of the guest", format: millis, about: "From the request to suspend to the resume; since the process began.", series: times("pause") }),
      chart({ ...common, id: "chart-delay", title: "Delay of output", format: millis, about: "From a packet's leaving the guest to its release; since the process began.", series: times("output_delay") }),
      chart({ ...common, id: "chart-transmission", title: "Transmission and acknowledgement", format: millis, about: "Medians since the process began.", series: [
        { name: "transmission", color: color("s1"), of: (g) => g.transmission.p50 }, { name: "acknowledgement", color: color("s3"), of: (g) => g.acknowledgement.p50 }] }),
      chart({ ...common, id: "chart-checkpoints", title: "Checkpoints a second", format: short, about: "Acknowledged, between two statuses.", series: [{ name: "checkpoints/s", color: color("s1"), of: rate("checkpoints") }] }),
      chart({ ...common, id: "chart-bytes", title: "Bytes a second", format: bytes, about: "Of stream, between two statuses.", series: [{ name: "bytes/s", color: color("s1"), of: rate("bytes") }] }),
    ];
    section("times", "Over time", hint(`Minutes and seconds since the first process began.${data.statuses_per_sample > 1 ? ` Of ${data.statuses_per_sample} statuses each, the last is here.` : ""} Upright lines are events: whole ones critical, dotted ones warnings.`), zoomTools("times", axis), charts.map((chart) => chart.element));
    shows.push(...charts.map((chart) => chart.show));
  }
  const loud = { info: "plain", warning: "note", critical: "bad" };
  const words = make("input", { id: "events-search", class: "grow", type: "search", placeholder: "words …", "aria-label": "Search events" });
  const level = make("select", { id: "events-level", "aria-label": "Level" }, [["", "all"], ["warning", "warning, critical"], ["critical", "critical"]].map(([value, text]) => make("option", { value, text })));
  const events = [...data.events].sort((a, b) => a.at - b.at);
  const shown = table("events-table", [["at", "n"], ["level", "s"], ["event"]], events, (event) => make("tr", {}, make("td", { class: "n", text: moment(event.at) }), make("td", { class: "s" }, badge(loud[event.level], event.level)), make("td", { class: "wide", text: event.text })), "no event is like that");
  const filter = () => shown.set(events.filter((event) => event.text.toLowerCase().includes(words.value.trim().toLowerCase()) && (!level.value || event.level === "critical" || event.level === level.value)));
  words.addEventListener("input", filter);
  level.addEventListener("input", filter);
  section("events", `Events (${count(events.length + data.events_left_out)})`, data.events_left_out ? hint(`${count(data.events_left_out)} in the middle are not here.`) : null, make("div", { class: "tools" }, words, level), shown.element);
  section("state", "Last status", tree(last));
  return shows;
}

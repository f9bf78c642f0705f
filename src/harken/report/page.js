"use strict";
(() => {
  const given = JSON.parse(document.getElementById("data").textContent);
  const lines = given.lines;

  // The order of the fields of harken.report.rows.Row.
  const rows = given.rows.map((
    [start, end, depth, at, took, kind, label, note, actor, outcome, tokens, cost, cause, link,
      missing, decisive, failed], place,
  ) => ({
    place, start, end, depth, at, took, kind, label, note, actor, outcome, tokens, cost, cause,
    link, missing, decisive, failed, parent: null, past: 0, effects: [],
  }));

  const ROW = 26;
  const BEYOND = 8;
  const MOST_PRINTED = 2000;
  const MOST_HOPS = 8;
  const MOST_EFFECTS = 30;
  const DOMAINS = new Set(["run", "session", "llm", "tool", "command", "policy", "approval",
    "human_input", "phase", "plan", "turn", "agent", "validation"]);
  const WORDS = { failure: "✕ failed", timeout: "✕ timed out", orphaned: "✕ orphaned",
    denied: "⊘ denied", cancelled: "– cancelled", deferred: "… waits", unclosed: "… not ended" };
  const WHY = { because: "because of", answers: "which answers", within: "within" };
  const INVISIBLE = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/gu;

  const byId = (id) => document.getElementById(id);
  const list = byId("list"), inner = byId("inner"), detail = byId("detail"), search = byId("search");

  let order = [];
  let matching = null;
  let show = "all";
  let chosen = null;
  let chain = new Set();
  let view = [0, given.length];
  const folded = new Set();

  // Words.

  // Every other text of the page was made harmless when the page was made.
  function visible(text) {
    return text.replace(INVISIBLE, (char) => {
      if (char === "\n") return char;
      const code = char.codePointAt(0).toString(16);
      return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
    });
  }

  function duration(ms) {
    if (ms < 1000) return `${ms.toFixed(ms >= 10 || ms === 0 ? 0 : 1)}\u00a0ms`;
    const seconds = ms / 1000;
    if (seconds < 60) return `${seconds.toFixed(2)}\u00a0s`;
    const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return hours ? `${hours}h ${two(minutes)}m ${two(whole % 60)}s`
      : `${minutes}m ${two(whole % 60)}s`;
  }

  const amount = (n) => n >= 1e6 ? `${(n / 1e6).toFixed(1)}M` : n >= 1e4 ? `${(n / 1e3).toFixed(1)}k`
    : n.toLocaleString("en");
  const money = (n) => n >= 1 ? `$${n.toFixed(2)}` : `$${n.toFixed(4)}`;
  const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  const titleOf = (row) => row.label ? `${row.kind} ${row.label}` : row.kind;

  function moment(ms) {
    const date = new Date(given.began * 1000 + ms);
    return isNaN(date) ? "at no time that there is"
      : date.toISOString().replace("T", " ").replace("Z", "\u00a0UTC");
  }

  function meaning(row) {
    if (row.outcome === "success") return "good";
    return row.failed && row.outcome !== "denied" && row.outcome !== "unclosed" ? "bad" : "doubt";
  }

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // With spaces, for whoever hears the page or copies from it.
  const nameOf = (row) => [make("span", "kind", row.kind), " ", make("bdi", "label", row.label), " "];

  // The tree.

  function connect() {
    const open = [];
    for (const row of rows) {
      while (open.length > row.depth) open.pop().past = row.place;
      row.parent = open.length ? open[open.length - 1].place : null;
      open.push(row);
      if (row.cause !== null && row.link !== "within") rows[row.cause].effects.push(row.place);
    }
    for (const row of open) row.past = rows.length;
  }

  const isParent = (row) => row.past > row.place + 1;

  // What is on the list: what matches and what it is a part of, but for what is folded.
  function arrange() {
    const picks = (row) => (show === "all" || row[show]) && (!matching || matching.has(row.place));
    const plain = show === "all" && !matching;
    let found = rows.length;
    let wanted = null;
    if (!plain) {
      wanted = new Map();
      found = 0;
      for (const row of rows) {
        if (!picks(row)) continue;
        found += 1;
        wanted.set(row.place, true);
        for (let up = row.parent; up !== null && !wanted.has(up); up = rows[up].parent) {
          wanted.set(up, false);
        }
      }
    }
    order = [];
    for (let place = 0; place < rows.length;) {
      if (plain || wanted.has(place)) order.push(place);
      place = plain && folded.has(place) ? rows[place].past : place + 1;
    }
    arrange.wanted = wanted;
    byId("count").textContent = plain ? plural(rows.length, "row")
      : `${found.toLocaleString("en")} of ${plural(rows.length, "row")}`;
    byId("fold").textContent = folded.size ? "Expand all" : "Collapse all";
    list.setAttribute("aria-rowcount", String(order.length));
    inner.style.height = `${order.length * ROW}px`;
    draw();
  }

  // Drawing.

  function bar(row) {
    const scale = 100 / (view[1] - view[0] || 1);
    const mark = make("span", row.took === null ? "point" : "bar");
    mark.style.left = `${(row.at - view[0]) * scale}%`;
    if (row.took !== null) mark.style.width = `${row.took * scale}%`;
    return mark;
  }

  function drawn(row, index) {
    const domain = row.kind.split(".")[0];
    const line = make("div", `row ${meaning(row)}`);
    line.classList.add(DOMAINS.has(domain) ? `is-${domain}` : "is-other");
    line.id = `row-${row.place}`;
    line.setAttribute("role", "row");
    line.setAttribute("aria-level", String(row.depth + 1));
    line.setAttribute("aria-rowindex", String(index + 1));
    line.setAttribute("aria-selected", String(chosen === row.place));
    if (chosen === row.place) line.classList.add("chosen");
    if (chain.has(row.place)) line.classList.add("why");
    if (arrange.wanted && !arrange.wanted.get(row.place)) line.classList.add("around");
    const name = make("div", "name");
    name.style.paddingLeft = `${6 + Math.min(row.depth, 24) * 14}px`;
    const toggle = make("span", "toggle", "");
    if (isParent(row) && !arrange.wanted) {
      const open = !folded.has(row.place);
      toggle.textContent = open ? "▾" : "▸";
      toggle.onclick = (event) => { event.stopPropagation(); fold(row, open); };
      line.setAttribute("aria-expanded", String(open));
    }
    name.append(toggle, ...nameOf(row));
    if (folded.has(row.place) && !arrange.wanted) {
      name.append(make("span", "inside", `+${row.past - row.place - 1}`), " ");
    }
    if (WORDS[row.outcome]) name.append(make("span", "mark", WORDS[row.outcome]), " ");
    if (row.note) name.append(make("bdi", "note", row.note));
    const bars = make("div", "bars");
    bars.append(bar(row));
    line.append(name, bars,
      make("div", "figure", row.took === null ? "" : duration(row.took)),
      make("div", "figure more", row.tokens ? amount(row.tokens) : ""),
      make("div", "figure more", row.cost ? money(row.cost) : ""));
    for (const cell of line.children) cell.setAttribute("role", "gridcell");
    line.title = `${titleOf(row)}  ${row.outcome}\n${row.note}`.trim();
    line.onclick = () => go(row.place);
    return line;
  }

  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - BEYOND);
    const last = Math.min(order.length,
      Math.ceil((list.scrollTop + list.clientHeight) / ROW) + BEYOND);
    const made = [];
    for (let index = first; index < last; index += 1) {
      const line = drawn(rows[order[index]], index);
      line.style.top = `${index * ROW}px`;
      made.push(line);
    }
    if (!order.length) made.push(make("p", "empty", "Nothing matches."));
    inner.replaceChildren(...made);
    if (byId(`row-${chosen}`)) list.setAttribute("aria-activedescendant", `row-${chosen}`);
    else list.removeAttribute("aria-activedescendant");
  }

  let waiting = false;
  function drawSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  function drawAxis(most = Math.max(1, Math.floor(byId("ticks").clientWidth / 75))) {
    const length = view[1] - view[0] || 1;
    const rough = length / Math.min(6, most), power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((n) => n * power >= rough);
    const ticks = [];
    for (let at = Math.ceil(view[0] / step) * step; at <= view[1] && ticks.length < 12; at += step) {
      const share = (at - view[0]) / length;
      if (share > 1 - 0.6 / most) break;
      const tick = make("span", "", duration(at));
      tick.style.left = `${100 * share}%`;
      ticks.push(tick);
    }
    byId("ticks").replaceChildren(...ticks);
  }

  // Choosing.

  function causesOf(place) {
    const hops = [];
    const seen = new Set();
    let at = place;
    while (at !== null) {
      if (seen.has(at)) return { hops, seen, stopped: "cycle" };
      seen.add(at);
      hops.push(rows[at]);
      at = rows[at].cause;
    }
    const last = hops[hops.length - 1];
    return { hops, seen, stopped: last.missing === null ? "origin" : "missing" };
  }

  function reveal(place) {
    for (let up = rows[place].parent; up !== null; up = rows[up].parent) folded.delete(up);
    if (arrange.wanted && !arrange.wanted.has(place)) {
      search.value = "";
      matching = null;
      choose("all");
    }
    arrange();
    const top = order.indexOf(place) * ROW;
    if (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight) {
      list.scrollTop = Math.max(0, top - list.clientHeight / 3);
    }
  }

  function pick(place) {
    chosen = place;
    chain = causesOf(place).seen;
    reveal(place);
    draw();
    tell(rows[place]);
  }

  const addressOf = (row) => recordOf(row.start).id ?? String(recordOf(row.start).seq);
  const recordOf = (line) => JSON.parse(lines[line]);

  // By the address, so that going back goes back, and a link leads to one event.
  function go(place) {
    const hash = `#event=${encodeURIComponent(addressOf(rows[place]))}`;
    if (location.hash !== hash) location.hash = hash;
    pick(place);
  }

  function placeOf(hash) {
    const name = /^#event=(.+)$/.exec(hash)?.[1];
    if (!name) return null;
    let wanted;
    try { wanted = decodeURIComponent(name); } catch { return null; }
    const here = rows.find((row) => [row.start, row.end].some((line) => line !== null
      && lines[line].includes(JSON.stringify(wanted).slice(1, -1))
      && [recordOf(line).id, String(recordOf(line).seq)].includes(wanted)));
    return here ? here.place : null;
  }

  // The event that was chosen.

  function fact(facts, name, value) {
    if (value === null || value === undefined || value === "") return;
    facts.append(make("dt", "", name));
    const told = make("dd");
    told.append(value instanceof Node ? value : make("bdi", "", visible(String(value))));
    facts.append(told);
  }

  function data(value) {
    const text = typeof value === "string" ? value : JSON.stringify(value, null, 1);
    return text.length > 100 || text.includes("\n") ? make("pre", "", visible(text))
      : make("bdi", "", visible(text));
  }

  function link(row, words, name) {
    const item = make("li", name);
    const button = make("button", `hop ${meaning(row)}`);
    button.type = "button";
    if (words) button.append(make("span", "because", words), " ");
    button.append(...nameOf(row));
    if (WORDS[row.outcome]) button.append(make("span", "mark", WORDS[row.outcome]));
    button.append(make("bdi", "note", [row.actor, row.note].filter(Boolean).join(" · ")));
    button.onclick = () => go(row.place);
    item.append(button);
    const said = row.effects.map((place) => rows[place])
      .filter((effect) => effect.kind === "policy.evaluated");
    if (said.length) {
      item.append(make("p", "policies", said.map((effect) =>
        `policy ${effect.label}: ${effect.note || effect.outcome}`).join("; ")));
    }
    return item;
  }

  function whySection(row) {
    const section = make("section", "why-chain");
    section.append(make("h4", "", "Why this happened"));
    const { hops, stopped } = causesOf(row.place);
    const steps = make("ol");
    const step = (hop, index) => {
      const before = hops[index - 1];
      const item = link(hop, before ? WHY[before.link] : "", before?.link);
      if (before?.link === "within") {
        item.prepend(make("p", "end", `The cause ${before.missing} is not in this report: often such `
          + "an event is not audited. What follows is no cause."));
      }
      return item;
    };
    const kept = keptOf(hops);
    for (let index = 0; index < hops.length; index += 1) {
      if (kept.has(index)) {
        steps.append(step(hops[index], index));
        continue;
      }
      let past = index;
      while (!kept.has(past)) past += 1;
      const [from, to] = [index, past];
      const more = make("li", "folded");
      const button = make("button", "", `${plural(to - from, "more step")}`);
      button.type = "button";
      button.onclick = () => more.replaceWith(
        ...hops.slice(from, to).map((hop, offset) => step(hop, from + offset)));
      more.append(button);
      steps.append(more);
      index = past - 1;
    }
    section.append(steps);
    const end = { origin: "Here the record ends: no cause was recorded.",
      cycle: "Here the record goes round in a circle.",
      missing: `Here the record ends: the cause ${hops[hops.length - 1].missing} is not in this `
        + "report. Often such an event is not audited." }[stopped];
    section.append(make("p", "end", `${end} Only recorded causes are shown; nothing is inferred.`));
    return section;
  }

  // Of a long chain: the first and the last step, then decisions, then the nearest.
  function keptOf(hops) {
    const last = hops.length - 1;
    const rank = (index) => index === 0 || index === last ? 0 : hops[index].decisive ? 1 : 2;
    const all = hops.map((_, index) => index);
    return new Set(all.sort((one, other) => rank(one) - rank(other) || one - other)
      .slice(0, MOST_HOPS));
  }

  function linksSection(title, places) {
    const section = make("section");
    section.append(make("h4", "", title));
    const items = make("ul", "links");
    items.append(...places.slice(0, MOST_EFFECTS).map((place) => link(rows[place], "")));
    section.append(items);
    if (places.length > MOST_EFFECTS) {
      section.append(make("p", "end", `And ${(places.length - MOST_EFFECTS).toLocaleString("en")} more.`));
    }
    return section;
  }

  function recordSection(name, record, line) {
    const section = make("details", "record");
    section.append(make("summary", "", `${name}, line ${record.seq}`));
    section.addEventListener("toggle", () => {
      if (section.childElementCount > 1) return;
      section.append(make("pre", "", visible(JSON.stringify(record, null, 1))));
      const copy = make("button", "", "Copy the stored line");
      copy.type = "button";
      copy.onclick = () => navigator.clipboard.writeText(lines[line]).then(
        () => { copy.textContent = "Copied"; }, () => { copy.textContent = "Not permitted here"; });
      section.append(copy);
    });
    return section;
  }

  function tell(row) {
    const first = recordOf(row.start), last = row.end === null ? first : recordOf(row.end);
    const head = make("h3");
    head.append(...nameOf(row));
    const facts = make("dl", "facts");
    const state = row.outcome ? make("span", `outcome ${meaning(row)}`,
      row.outcome === "unclosed" ? "not ended" : row.outcome) : null;
    fact(facts, "Outcome", state);
    fact(facts, "Began", `${moment(row.at)} (+${duration(row.at)})`);
    fact(facts, "Took", row.took === null ? null : duration(row.took));
    fact(facts, "Actor", last.actor);
    fact(facts, "On behalf of", first.on_behalf_of);
    fact(facts, "Did", `${first.action ?? ""} ${first.resource ?? ""}`.trim());
    if (row.parent !== null) {
      const up = make("button", "hop", titleOf(rows[row.parent]));
      up.type = "button";
      up.onclick = () => go(row.parent);
      fact(facts, "Part of", up);
    }
    const metadata = { ...first.metadata, ...last.metadata };
    const said = make("dl", "facts said");
    for (const [name, value] of Object.entries(metadata)) {
      if (value !== null && value !== "") fact(said, visible(name), data(value));
    }
    const ids = make("dl", "facts ids");
    for (const name of ["id", "run_id", "session_id", "trace_id", "span_id", "correlation_id"]) {
      fact(ids, name, first[name]);
    }
    const cut = { ...first.truncated, ...last.truncated };
    if (Object.keys(cut).length) fact(said, "cut when recorded", data(cut));
    const parts = [head, facts, whySection(row)];
    if (row.effects.length) parts.push(linksSection("What it led to", row.effects));
    if (said.childElementCount) parts.push(make("h4", "", "What was recorded"), said);
    parts.push(make("h4", "", "As stored"), ids, recordSection("First record", first, row.start));
    if (row.end !== null) parts.push(recordSection("Last record", last, row.end));
    detail.replaceChildren(...parts);
    detail.scrollTop = 0;
  }

  // Searching.

  let texts = null;
  function textOf(row) {
    const said = [row.start, row.end].map((line) => {
      if (line === null) return "";
      const { prev, hash, writer, ...record } = recordOf(line);
      return JSON.stringify(record);
    });
    return `${row.kind} ${row.label} ${row.note} ${row.outcome} ${said.join(" ")}`.toLowerCase();
  }

  function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) matching = null;
    else {
      texts ??= rows.map(textOf);
      matching = new Set();
      texts.forEach((text, place) => {
        if (words.every((word) => text.includes(word))) matching.add(place);
      });
    }
    list.scrollTop = 0;
    arrange();
  }

  function choose(what) {
    show = what;
    for (const button of document.querySelectorAll("[data-show]")) {
      button.setAttribute("aria-pressed", String(button.dataset.show === what));
    }
  }

  function fold(row, close) {
    if (close) folded.add(row.place);
    else folded.delete(row.place);
    arrange();
  }

  function foldAll() {
    const close = !folded.size;
    folded.clear();
    if (close) for (const row of rows) if (isParent(row)) folded.add(row.place);
    list.scrollTop = 0;
    arrange();
  }

  function zoom() {
    const whole = view[0] === 0 && view[1] === given.length;
    const row = chosen === null ? null : rows[chosen];
    if (whole && row) {
      const around = row.took ? row : rows[row.parent ?? row.place];
      const margin = (around.took || given.length / 20) * 0.05;
      view = [around.at - margin, around.at + (around.took || given.length / 20) + margin];
    } else view = [0, given.length];
    const zoomed = whole && row !== null;
    byId("zoom").setAttribute("aria-pressed", String(zoomed));
    byId("zoom").textContent = zoomed ? "Zoom out" : "Zoom in";
    drawAxis();
    draw();
  }

  // Keys.

  function step(by) {
    const at = order.indexOf(chosen);
    const next = at < 0 ? 0 : Math.min(order.length - 1, Math.max(0, at + by));
    if (order.length) pick(order[next]);
  }

  function problem(by) {
    for (let place = (chosen ?? -1) + by; place >= 0 && place < rows.length; place += by) {
      if (rows[place].failed) return go(place);
    }
  }

  const page = () => Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
  const inList = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), PageDown: () => step(page()),
    PageUp: () => step(-page()), Home: () => step(-Infinity), End: () => step(Infinity),
    Enter: () => chosen !== null && go(chosen),
    ArrowRight: () => {
      const row = rows[chosen];
      if (!row) return step(1);
      if (folded.has(row.place)) fold(row, false);
      else if (isParent(row)) step(1);
    },
    ArrowLeft: () => {
      const row = rows[chosen];
      if (!row) return;
      if (isParent(row) && !folded.has(row.place) && !arrange.wanted) fold(row, true);
      else if (row.parent !== null) go(row.parent);
    },
  };
  const anywhere = {
    "/": () => search.focus(), n: () => problem(1), p: () => problem(-1), z: zoom,
    w: () => (rows[chosen]?.cause ?? null) !== null && go(rows[chosen].cause),
    Escape: () => { search.value = ""; choose("all"); find(); list.focus(); },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === search;
    if (typing && event.key === "Enter") {
      find();
      if (!matching?.size) return;
      list.focus();
      return pick([...matching][0]);
    }
    if (typing && event.key !== "Escape") return;
    const act = (event.target === list && inList[event.key]) || anywhere[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // The lines of this page, checked here and by nobody else.

  async function check(button) {
    if (!globalThis.crypto?.subtle) {
      button.replaceWith("This browser does not compute hashes for local files.");
      return;
    }
    button.disabled = true;
    const encoder = new TextEncoder();
    let right = 0, linked = 0, before = null;
    for (let begin = 0; begin < lines.length; begin += 500) {
      const some = lines.slice(begin, begin + 500);
      const digests = await Promise.all(some.map((line) =>
        crypto.subtle.digest("SHA-256", encoder.encode(line.slice(0, -75)))));
      digests.forEach((digest, index) => {
        const hex = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0"));
        const hash = some[index].slice(-66, -2);
        if (hex.join("") === hash) right += 1;
        if (before !== null && some[index].slice(0, -75).endsWith(`,"prev":"${before}"`)) linked += 1;
        before = hash;
      });
    }
    const told = make("output", right === lines.length ? "good" : "bad",
      `${right.toLocaleString("en")} of ${plural(lines.length, "line")} of this page have the hash `
      + `that they carry; ${linked.toLocaleString("en")} directly follow the line before them.`);
    button.replaceWith(told);
  }

  function addCheck() {
    const about = document.querySelector(".claims .about");
    const button = make("button", "check", "Recompute the hashes of this page's lines");
    button.type = "button";
    button.onclick = () => check(button);
    const place = make("p", "about");
    place.append(button);
    if (lines.length) about.after(place);
  }

  // Paper.

  window.addEventListener("beforeprint", () => {
    const made = order.slice(0, MOST_PRINTED).map((place, index) => drawn(rows[place], index));
    if (order.length > MOST_PRINTED) {
      made.push(make("p", "empty", `And ${order.length - MOST_PRINTED} more rows, not printed.`));
    }
    inner.replaceChildren(...made);
    drawAxis(3);
  });
  window.addEventListener("afterprint", () => { drawAxis(); draw(); });

  // Begin.

  function begin() {
    const theme = byId("theme");
    theme.hidden = false;
    theme.onclick = () => {
      const themes = ["auto", "light", "dark"];
      const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % 3];
      document.documentElement.dataset.theme = next;
      theme.textContent = `Theme: ${next}`;
    };
    addCheck();
    if (!rows.length) return;
    document.querySelector(".timeline").hidden = false;
    connect();
    list.onscroll = drawSoon;
    window.addEventListener("resize", () => { drawAxis(); drawSoon(); });
    let timer = 0;
    search.oninput = () => {
      clearTimeout(timer);
      timer = setTimeout(find, rows.length > 2000 ? 150 : 0);
    };
    for (const button of document.querySelectorAll("[data-show]")) {
      button.onclick = () => { choose(button.dataset.show); list.scrollTop = 0; arrange(); };
    }
    byId("fold").onclick = foldAll;
    byId("zoom").onclick = zoom;
    for (const line of document.querySelectorAll("tr[data-row]")) {
      const place = Number(line.dataset.row);
      const button = make("button", "to-row");
      const cell = line.children[1];
      button.type = "button";
      button.append(...cell.childNodes);
      cell.append(button);
      line.onclick = () => {
        go(place);
        byId("timeline-title").scrollIntoView({ block: "start" });
      };
    }
    window.addEventListener("hashchange", () => {
      const place = placeOf(location.hash);
      if (place !== null && place !== chosen) pick(place);
    });
    drawAxis();
    arrange();
    const first = placeOf(location.hash) ?? rows.find((row) => row.failed)?.place ?? 0;
    pick(first);
  }

  begin();
})();

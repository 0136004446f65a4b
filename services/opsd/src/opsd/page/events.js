// The event log: live, or as it was at any time that is still held, and played on from there.

import { clock, localInput, short, span } from "./format.js";
import { badge, eventTone, facts, subject } from "./states.js";
import { dialog, h, say } from "./dom.js";
import { ask } from "./session.js";
import { filters } from "./filters.js";
import { store } from "./store.js";
import { Table } from "./table.js";

const KINDS = ["all", "container", "sandbox", "image", "snapshot", "exec", "node"];
const PAGE = 500;
/** Events that are read at once to be played. */
const PIECE = 2000;
const STEPS = 1000;
const SPEEDS = [1, 10, 60];
const TICK_MS = 100;

export function columns() {
  const text = (value) => (cell) => (row) => say(cell, value(row));
  return [
    { id: "at", title: "Time", width: "118px", narrow: "92px", make: text((row) => clock(row.at, { millis: true })) },
    {
      id: "verb",
      title: "Event",
      width: "minmax(130px,196px)",
      narrow: "minmax(0,1.7fr)",
      make: (cell) => {
        const show = badge(cell);
        return (row) => show([`${row.kind} ${row.verb.replace(/_/g, " ")}`, eventTone(row)]);
      },
    },
    { id: "subject", title: "What", width: "minmax(100px,1fr)", narrow: "minmax(0,1fr)", make: text((row) => subject(row)[0]) },
    { id: "node", title: "Node", width: "minmax(70px,110px)", make: text((row) => row.node), wide: true },
    { id: "facts", title: "Facts", width: "minmax(120px,2.6fr)", make: text(facts), wide: true },
  ];
}

export function events(params) {
  let rows = [];
  /** null while it is live, else the time that is looked at, in Unix milliseconds. */
  let at = null;
  let first = 0;
  /** What is played: the events to come and where the next ones begin; null while nothing is. */
  let playing = null;
  let speed = SPEEDS[1];
  let loading = 0;
  const table = new Table({ columns: columns(), href: (row) => subject(row)[1] || null, open: show, key: (row) => row.seq, empty: "No event fits." });
  const bar = filters({ path: "events", params, choices: { kind: KINDS } });
  const live = h("button.live", { type: "button", onclick: () => seek(null) }, "Live");
  const play = h("button", { type: "button", onclick: () => (playing ? pause() : begin()), title: "Play on from here" }, "▶");
  const pace = h("button", { type: "button", title: "Speed", onclick: faster }, `${speed} ×`);
  const slider = h("input.slider", { type: "range", min: 0, max: STEPS, value: STEPS, "aria-label": "Time", onchange: () => seek(timeOf(slider.value)), oninput: () => say(shown, clock(timeOf(slider.value))) });
  const when = h("input", { type: "datetime-local", step: 1, "aria-label": "Time", onchange: () => when.value && seek(new Date(when.value).getTime()) });
  const shown = h("span.when");
  const note = h("p.note", { hidden: true });
  const further = h("button", { type: "button", onclick: () => back(further.reached) }, "Look further back");
  const element = h("div.list", {}, bar.element, h("div.bar.time", {}, live, play, pace, slider, shown, when), note, table.element);

  function timeOf(step) {
    const now = store.now();
    return Number(step) >= STEPS ? now : first + ((now - first) * Number(step)) / STEPS;
  }

  function wanted() {
    const { q = "", kind = "all", id = "" } = bar.values();
    return { text: q, kind: kind === "all" ? "" : kind, id };
  }

  function fits(row) {
    const { text, kind, id } = wanted();
    if (kind && row.kind !== kind) return false;
    if (id && !row.id.includes(id) && !Object.values(row.facts).some((fact) => String(fact).startsWith(id))) return false;
    return !text || `${JSON.stringify(row)} ${subject(row)[0]}`.toLowerCase().includes(text.toLowerCase());
  }

  async function seek(time) {
    pause();
    at = time;
    await load();
  }

  async function load() {
    const mine = (loading += 1);
    if (at === null) {
      rows = store.events.filter(fits);
      draw(true);
    }
    try {
      const found = await read({ limit: PAGE, ...(at !== null && { until: Math.round(at) }) });
      if (mine !== loading) return;
      first = found.first;
      rows = store.learn(found.events);
      tellReached(found);
      if (at === null) rows.push(...store.events.filter((row) => row.seq > (rows.at(-1)?.seq ?? 0) && fits(row)));
    } catch (error) {
      if (mine === loading) tell(error.message);
    }
    draw(true);
  }

  function tell(text) {
    say(note, text);
    note.hidden = !text;
  }

  /** Says how far a search came that was cut off before the table was full. */
  function tellReached({ events: found, more, reached }) {
    tell(more && found.length < PAGE ? `Looked back to ${clock(reached)}; older ones may fit. ` : "");
    further.reached = reached;
    if (!note.hidden) note.append(further);
  }

  async function back(until) {
    const mine = loading;
    further.disabled = true;
    try {
      const found = await read({ limit: PAGE, until });
      if (mine !== loading) return;
      rows = [...store.learn(found.events), ...rows];
      tellReached(found);
    } catch (error) {
      if (mine === loading) tell(error.message);
    }
    further.disabled = false;
    draw(false);
  }

  function read(range) {
    const { text, kind, id } = wanted();
    return ask(`/api/v1/events?${new URLSearchParams({ text, kind, id, ...range })}`);
  }

  function draw(end) {
    const stay = end || table.atEnd;
    bar.count(rows.length, rows.length);
    table.set(rows);
    if (stay) table.toEnd();
    const now = store.now();
    live.setAttribute("aria-pressed", String(at === null));
    slider.value = at === null || !first ? STEPS : ((at - first) / (now - first)) * STEPS;
    say(shown, at === null ? `held since ${clock(first)}` : `${clock(at)}, ${span(now - at)} ago`);
    if (document.activeElement !== when) when.value = localInput(at ?? now);
  }

  async function begin() {
    if (at === null) {
      loading += 1;
      at = Math.max(first, store.now() - 60000);
      rows = rows.filter((row) => row.at <= at);
    }
    const mine = { coming: [], from: at, seq: rows.at(-1)?.seq ?? 0, more: true, reading: false, timer: 0 };
    playing = mine;
    play.textContent = "❚❚";
    await readOn(mine);
    if (playing !== mine) return;
    mine.timer = setInterval(() => tick(mine), TICK_MS);
  }

  async function readOn(mine) {
    mine.reading = true;
    try {
      const found = await read({ limit: PIECE, since: Math.max(1, mine.from) });
      if (playing !== mine) return;
      mine.coming = store.learn(found.events.filter((row) => row.seq > mine.seq));
      mine.seq = mine.coming.at(-1)?.seq ?? mine.seq;
      mine.more = found.more && found.reached > mine.from;
      mine.from = found.reached;
    } catch (error) {
      mine.more = false;
      if (playing === mine) tell(error.message);
    }
    mine.reading = false;
  }

  function tick(mine) {
    if (!mine.coming.length && mine.more) {
      if (!mine.reading) readOn(mine);
      return;
    }
    const now = store.now();
    at = Math.min(at + TICK_MS * speed, now);
    while (mine.coming.length && mine.coming[0].at <= at) rows.push(mine.coming.shift());
    if (at === now && !mine.coming.length && !mine.more) seek(null);
    else draw(false);
  }

  function pause() {
    clearInterval(playing?.timer);
    playing = null;
    play.textContent = "▶";
  }

  function faster() {
    speed = SPEEDS[(SPEEDS.indexOf(speed) + 1) % SPEEDS.length];
    pace.textContent = `${speed} ×`;
  }

  const take = (event) => {
    if (at !== null) return;
    const fresh = event.detail.filter(fits);
    if (!fresh.length) return;
    rows.push(...fresh);
    if (rows.length > 5000) rows.splice(0, rows.length - 4000);
    draw(false);
  };
  store.addEventListener("events", take);
  bar.onchange = () => seek(at);
  load();
  return {
    element,
    title: "Events",
    update: () => {},
    focus: bar.focus,
    move: (step) => table.move(step),
    chosen: () => table.chosen(),
    close: () => {
      pause();
      store.removeEventListener("events", take);
    },
  };
}

/** All of one event that leads nowhere: its row may have no room for it. */
function show(event) {
  const told = [["time", clock(event.at, { millis: true })], ["node", event.node], ["id", event.id], ...Object.entries(event.facts).map(([name, value]) => [name.replace(/_/g, " "), Array.isArray(value) ? value.join(" ") : String(value)]), ["trace", event.trace]];
  const title = h("h2");
  badge(title)([`${event.kind} ${event.verb.replace(/_/g, " ")}`, eventTone(event)]);
  dialog("event", title, h("dl.facts", {}, told.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

/** The events of one object, oldest first; a plain list that `update` adds to. */
export function eventsOf(id) {
  const list = h("ol.feed.lines");
  let known = 0;
  const add = (rows) => {
    for (const row of rows) {
      if (row.seq <= known || !(row.id === id || row.facts.container_id === id || row.facts.sandbox_id === id)) continue;
      known = row.seq;
      list.append(h("li", {}, h("time", {}, clock(row.at, { millis: true })), h(`i.dot.${eventTone(row)}`), h("span.kind", {}, `${row.kind} ${row.verb.replace(/_/g, " ")}`), h("span.facts", {}, facts(row) || short(row.id))));
    }
  };
  const load = async () => {
    list.replaceChildren();
    known = 0;
    const found = await ask(`/api/v1/events?${new URLSearchParams({ id, limit: 300 })}`).catch(() => ({ events: store.events }));
    add(found.events);
    add(store.events);
  };
  return { element: list, load, update: () => add(store.events.filter((row) => row.seq > known)) };
}

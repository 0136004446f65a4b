// The pages of one container and of one pod.

import { badge, containerState, lasted, podName, podState } from "./states.js";
import { bytes, clock, cores, imageName, short, span } from "./format.js";
import { dress, h, prose, say } from "./dom.js";
import { ask } from "./session.js";
import { act, locked } from "./actions.js";
import { chart } from "./chart.js";
import { eventsOf } from "./events.js";
import { logs } from "./logs.js";
import { store } from "./store.js";
import { waterfall } from "./trace.js";

const PROCESSES_MS = 2000;
/** Causes that `why` gives of what is as it should be. */
const WELL = new Set(["running", "starting", "created", "creating"]);
/** Causes that look as the state does. */
const AS_ITS_STATE = new Set(["completed", "stopped", "paused"]);

export function container(id) {
  const parts = { summary: () => summary(id), logs: () => logs(id), trace: () => traceOf("containers", id), processes: () => processes(id), events: () => eventsOf(id) };
  return detail({
    id,
    kind: "container",
    known: () => store.containers.get(id),
    name: (row) => row.name,
    state: containerState,
    facts: (row) => [["pod", podName(row.pod), `#/pods/${row.pod}`], ["image", imageName(row.image)], ["node", row.node], ["since", `${lasted(row)}`]],
    actions: (row) => (row.state === "running" || row.state === "unknown" || row.state === "paused" ? ["stop", "kill"] : ["remove"]),
    parts,
  });
}

export function pod(id) {
  const parts = { containers: () => members(id), trace: () => traceOf("pods", id), events: () => eventsOf(id) };
  return detail({
    id,
    kind: "pod",
    known: () => store.pods.get(id),
    name: (row) => `${row.namespace}/${row.name}`,
    state: podState,
    facts: (row) => [["address", row.host_network ? "host network" : row.ips.join(" ") || "none"], ["handler", row.handler || "default"], ["node", row.node], ["created", clock(row.created)]],
    actions: (row) => (row.state === "ready" ? ["stop"] : ["remove"]),
    parts,
  });
}

function detail({ id, kind, known, name, state, facts, actions, parts }) {
  let part = null;
  let offered = "";
  const title = h("h1");
  const stateCell = h("span.state");
  const show = badge(stateCell);
  const line = h("p.facts");
  const buttons = h("span.actions");
  const gone = h("p.note", { hidden: true }, `This ${kind} is gone; its events and its trace are still held for a while.`);
  const body = h("div.part");
  const names = Object.keys(parts);
  const tabs = h("nav.tabs", { role: "tablist" }, names.map((each, index) => h("button", { type: "button", role: "tab", onclick: () => choose(each), title: `${index + 1}` }, each)));
  const element = h("div.detail", {}, h("header", {}, h("div.title", {}, stateCell, title, h("code", { title: id }, short(id)), buttons), line, gone), tabs, body);
  let lastFacts = "";

  function choose(chosen) {
    part?.close?.();
    part = parts[chosen]();
    body.replaceChildren(part.element);
    names.forEach((each, index) => tabs.children[index].setAttribute("aria-selected", String(each === chosen)));
    part.load?.();
    part.update();
  }

  function update() {
    const row = known();
    gone.hidden = Boolean(row) || store.stream === "waiting";
    if (row) {
      say(title, name(row));
      show(state(row));
      const told = facts(row);
      if (JSON.stringify(told) !== lastFacts) {
        lastFacts = JSON.stringify(told);
        line.replaceChildren(...told.map(([label, value, href]) => h("span", {}, h("label", {}, label), href ? h("a", { href }, value) : value)));
      }
    } else if (!title.textContent) say(title, short(id));
    const now = row ? actions(row) : [];
    if (now.join() !== offered) {
      offered = now.join();
      buttons.replaceChildren(...now.map((each) => h(`button${each === "stop" ? "" : ".danger"}`, { type: "button", onclick: () => act(kind, id, each, title.textContent) }, each)));
    }
    part?.update();
  }

  choose(names[0]);
  return {
    element,
    update,
    get title() {
      return title.textContent || kind;
    },
    digit: (number) => names[number - 1] && choose(names[number - 1]),
    close: () => part?.close?.(),
  };
}

function summary(id) {
  const cpu = chart("CPU", cores);
  const memory = chart("Memory", bytes);
  const why = h("section.panel.why", { hidden: true });
  const facts = h("dl.facts");
  const mounts = h("div.mounts");
  let limits = {};
  let state = "";
  const element = h("div.summary", {}, why, h("div.columns", {}, cpu.element, memory.element), h("div.columns", {}, h("section.panel", {}, h("h2", {}, "Container"), facts), h("section.panel", {}, h("h2", {}, "Mounts"), mounts)));

  async function load() {
    const row = store.containers.get(id);
    state = row ? `${row.state} ${row.reason}` : "";
    explain("containers", id, why, row && containerState(row)[1]);
    try {
      const found = await ask(`/api/v1/containers/${id}`);
      facts.replaceChildren(...listed(found).flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
      mounts.replaceChildren(...found.mounts.map((mount) => h("p", {}, h("code", {}, mount.path), h("span.quiet", {}, mount.readonly ? " read-only from " : " from "), h("code", {}, mount.source))));
      if (!found.mounts.length) mounts.replaceChildren(h("p.quiet", {}, "none"));
      limits = found.limits;
      update();
    } catch (error) {
      facts.replaceChildren(h("dd.quiet", {}, error.message));
    }
  }

  function update() {
    const use = store.use.get(id);
    cpu.draw(use?.cpu, (limits.cpu ?? 0) * 1000);
    memory.draw(use?.memory, limits.memory ?? 0);
    const row = store.containers.get(id);
    if (row && state && `${row.state} ${row.reason}` !== state) load();
  }

  return { element, load, update };
}

function listed(found) {
  const limits = Object.entries(found.limits).map(([name, value]) => `${name.replace("_", " ")} ${name === "memory" || name === "swap" ? bytes(value) : value}`);
  const table = (entries) => Object.entries(entries).map(([name, value]) => `${name}=${value}`).join("\n");
  const rows = [
    ["id", found.id],
    ["image", found.image],
    ["image id", found.image_id],
    ["created", clock(found.created)],
    ["started", found.started ? clock(found.started) : ""],
    ["finished", found.finished ? `${clock(found.finished)}, after ${span(found.finished - found.started)}` : ""],
    ["exit", found.finished ? `${found.code}${found.signal ? `, signal ${found.signal}` : ""} ${found.reason}` : ""],
    ["message", found.message],
    ["restarts", found.attempt ? String(found.attempt) : ""],
    ["process", found.pid ? String(found.pid) : ""],
    ["user", found.user],
    ["limits", limits.join(", ") || "none"],
    ["log", found.log_path],
    ["root", found.rootfs],
    ["cgroup", found.cgroup],
    ["labels", table(found.labels)],
    ["annotations", table(found.annotations)],
  ];
  return rows.filter(([, value]) => value);
}

async function explain(kind, id, panel, tone) {
  try {
    const found = await ask(`/api/v1/${kind}/${id}/why`);
    const steps = found.next_steps.map((each) => h("li", {}, prose(each)));
    const evidence = found.evidence.map((each) => h("tr", {}, h("td", {}, h("time", {}, each.at ? clock(each.at) : "")), h("td.quiet", {}, each.kind.replace(/[-_]/g, " ")), h("td", {}, each.text)));
    panel.replaceChildren(h("h2", {}, "Why"), h("p.verdict", {}, found.verdict), h("ol.steps", {}, steps), h("table.evidence", {}, evidence));
    dress(panel, `panel why ${WELL.has(found.cause) ? "good" : AS_ITS_STATE.has(found.cause) ? (tone ?? "idle") : "bad"}`);
    panel.hidden = false;
  } catch {
    panel.hidden = true; // its node is away, or it is gone
  }
}

function traceOf(kind, id) {
  const element = h("div.trace", {}, h("p.quiet", {}, "…"));
  const load = async () => {
    try {
      element.replaceChildren(waterfall((await ask(`/api/v1/${kind}/${id}/trace`)).spans));
    } catch (error) {
      element.replaceChildren(h("p.note", {}, error.message));
    }
  };
  return { element, load, update: () => {} };
}

function processes(id) {
  let timer = 0;
  let open = true;
  const rows = h("tbody");
  const note = h("p.quiet", {}, "…");
  const titles = ["pid", "state", "user", "threads", "CPU", "memory", "command"];
  const shown = [note, h("table", {}, h("thead", {}, h("tr", {}, titles.map((each) => h("th", {}, each)))), rows)];
  const element = h("div.processes", {}, shown);
  async function load() {
    try {
      const found = await ask(`/api/v1/containers/${id}/processes`);
      if (!open) return;
      if (!note.isConnected) element.replaceChildren(...shown);
      say(note, found.length ? `${found.length} on the node, with its process ids` : "It does not run.");
      rows.replaceChildren(...nested(found).map(([each, depth]) => processRow(each, depth)));
    } catch (error) {
      if (error.status === 403) return element.replaceChildren(locked(error.message, load));
      say(note, error.message);
    }
    if (open) timer = setTimeout(load, PROCESSES_MS);
  }
  return {
    element,
    load,
    update: () => {},
    close: () => {
      open = false;
      clearTimeout(timer);
    },
  };
}

function nested(found) {
  const pids = new Set(found.map((each) => each.pid));
  const rows = [];
  const walk = (parent, depth) => {
    for (const each of found) {
      if ((pids.has(each.parent) ? each.parent : 0) !== parent || each.pid === parent) continue;
      rows.push([each, depth]);
      walk(each.pid, depth + 1);
    }
  };
  walk(0, 0);
  return rows;
}

function processRow(each, depth) {
  const command = h("code", {}, each.command);
  command.style.paddingLeft = `${depth * 14}px`;
  const values = [each.pid, each.state, each.uid, each.threads, span(each.cpu_s * 1000), bytes(each.memory)];
  return h("tr", {}, values.map((value) => h("td", {}, String(value))), h("td", {}, command));
}

function members(id) {
  const cpu = chart("CPU", cores);
  const memory = chart("Memory", bytes);
  const charts = h("div.columns", {}, cpu.element, memory.element);
  const why = h("section.panel.why", { hidden: true });
  const list = h("ol.feed");
  const element = h("div.summary", {}, why, charts, list);
  let shown = null;
  let explained = "";
  const update = () => {
    const row = store.pods.get(id);
    const found = store.members(id);
    const use = store.useOfPod(id);
    charts.hidden = !use;
    cpu.draw(use?.cpu);
    memory.draw(use?.memory);
    const told = found.map((each) => [each.id, ...containerState(each), lasted(each)]).join();
    const state = row && `${row.state} ${found.map((each) => `${each.state} ${each.reason}`)}`;
    if (state && state !== explained) {
      explained = state;
      explain("pods", id, why, row.state === "ready" ? "warn" : podState(row)[1]);
    }
    if (told === shown) return;
    shown = told;
    list.replaceChildren(
      ...found.map((each) => {
        const state = h("span.state");
        badge(state)(containerState(each));
        return h("li", {}, h("a", { href: `#/containers/${each.id}` }, state, h("span.what", {}, each.name), h("span.quiet", {}, imageName(each.image)), h("time", {}, lasted(each))));
      }),
    );
    if (!found.length) list.append(h("li.quiet", {}, "no containers"));
  };
  return { element, update };
}

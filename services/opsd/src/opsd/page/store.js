// What the page knows: everything once, then what changes, as opsd streams it.

import { refusal, token } from "./session.js";

const KEPT = 60;
const MAX_EVENTS = 3000;
const MAX_NAMES = 10000;
/** After drawing, leave the page to the keyboard for so many times as long as that took. */
const REST = 2;
const MAX_REST_MS = 150;
const SILENCE_MS = 25000;
/** Browsers have six connections to a server: a tab that nobody sees leaves its own to the others after so long. */
const UNSEEN_MS = 60000;

/** Everything known of the cluster; "change" is told once for each frame in which something changed. */
class Store extends EventTarget {
  nodes = new Map();
  pods = new Map();
  containers = new Map();
  use = new Map();
  events = [];
  /** What things were called, by id, as events told: they may be gone. */
  names = new Map();
  link = { connected: true };
  self = {};
  missed = 0;
  /** waiting, live, lost or refused: the connection of this page to its opsd. */
  stream = "waiting";
  /** Why it is not live, in the words of opsd when it has some. */
  trouble = "";
  /** Whether there ever was something to show. */
  known = false;
  lostSince = 0;
  /** The server's clock less ours, in milliseconds. */
  skew = 0;
  #members = null;
  #pending = false;
  #rest = 0;

  now() {
    return Date.now() + this.skew;
  }

  /** The containers of a pod, the oldest first. */
  members(pod) {
    if (!this.#members) {
      this.#members = new Map();
      for (const each of [...this.containers.values()].sort((a, b) => a.created - b.created)) {
        if (!this.#members.has(each.pod)) this.#members.set(each.pod, []);
        this.#members.get(each.pod).push(each);
      }
    }
    return this.#members.get(pod) ?? [];
  }

  /** What a container uses, if it runs. */
  useOf(container) {
    return container.state === "running" ? this.use.get(container.id) : undefined;
  }

  /** What the containers of a pod that run use together, undefined when none does: its node reads all of them at once. */
  useOfPod(pod) {
    const uses = this.members(pod).map((each) => this.useOf(each)).filter(Boolean);
    return uses.length ? { cpu: sum(uses.map((use) => use.cpu)), memory: sum(uses.map((use) => use.memory)) } : undefined;
  }

  changed() {
    if (this.#pending) return;
    this.#pending = true;
    const tell = () => {
      this.#pending = false;
      const began = performance.now();
      this.dispatchEvent(new Event("change"));
      this.#rest = Math.min(REST * (performance.now() - began), MAX_REST_MS);
    };
    if (document.hidden) setTimeout(tell, 500);
    else setTimeout(() => requestAnimationFrame(tell), this.#rest);
  }

  takeState(state) {
    this.skew = state.now - Date.now();
    this.self = state.self ?? {};
    this.link = state.link;
    this.nodes = byKey(state.nodes, "name");
    this.pods = byKey(state.pods, "id");
    this.containers = byKey(state.containers, "id");
    this.#members = null;
    this.use = new Map();
    for (const [id, cpu, memory] of state.use) this.use.set(id, { cpu, memory });
    if (!state.resumed) this.events = this.learn(state.events);
    else this.#tell(state.events);
    this.stream = "live";
    this.trouble = "";
    this.known = true;
    this.dispatchEvent(new Event("state"));
    this.changed();
  }

  takePatch(patch) {
    this.skew = patch.now - Date.now();
    if (patch.link) this.link = patch.link;
    for (const node of patch.nodes ?? []) this.nodes.set(node.name, node);
    for (const pod of patch.pods ?? []) this.pods.set(pod.id, pod);
    for (const container of patch.containers ?? []) this.containers.set(container.id, container);
    if (patch.containers || patch.gone) this.#members = null;
    for (const name of patch.forgotten ?? []) this.nodes.delete(name);
    for (const id of patch.gone ?? []) {
      this.pods.delete(id);
      this.containers.delete(id);
      this.use.delete(id);
    }
    for (const used of patch.use ?? []) {
      for (const [id, cpu, memory] of used) this.#append(id, cpu, memory);
    }
    if (patch.events?.length) this.#tell(patch.events);
    this.missed += patch.missed ?? 0;
    this.changed();
  }

  /** Notes the names in events; returns them. */
  learn(events) {
    for (const { id, name, facts } of events) {
      if (name || facts.name) this.names.set(id, facts.namespace ? `${facts.namespace}/${facts.name}` : (name ?? facts.name));
    }
    while (this.names.size > MAX_NAMES) this.names.delete(this.names.keys().next().value);
    return events;
  }

  #tell(events) {
    this.events.push(...this.learn(events));
    if (this.events.length > MAX_EVENTS) this.events.splice(0, this.events.length - MAX_EVENTS);
    this.dispatchEvent(new CustomEvent("events", { detail: events }));
  }

  #append(id, cpu, memory) {
    const known = this.use.get(id) ?? { cpu: [], memory: [] };
    known.cpu.push(cpu);
    known.memory.push(memory);
    if (known.cpu.length > KEPT) {
      known.cpu.shift();
      known.memory.shift();
    }
    this.use.set(id, known);
  }

  lose(trouble) {
    if (this.stream === "live") this.lostSince = Date.now();
    this.stream = this.known ? "lost" : "waiting";
    this.trouble = trouble;
    this.changed();
  }

  refuse(trouble) {
    this.stream = "refused";
    this.trouble = trouble;
    this.changed();
  }
}

/** Of histories that end at the same moment. */
function sum(histories) {
  const total = new Array(Math.max(...histories.map((each) => each.length))).fill(0);
  for (const each of histories) each.forEach((value, index) => (total[total.length - each.length + index] += value));
  return total;
}

function byKey(rows, key) {
  return new Map(rows.map((row) => [row[key], row]));
}

export const store = new Store();

/** Follows opsd for as long as the page is open; resolves only if the page may not read. */
export async function follow() {
  let wait = 300;
  for (;;) {
    let trouble = "";
    try {
      await seen();
      await once();
      wait = 300;
    } catch (error) {
      if (error.status === 403) {
        store.refuse(error.message);
        return;
      }
      if (error.status) trouble = error.message;
    }
    store.lose(trouble);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 5000);
  }
}

function seen() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

/** Aborts when the page is left, also for a while. */
function leaving(abort, signal) {
  let unseen = 0;
  addEventListener("pagehide", () => abort.abort(), { signal });
  document.addEventListener(
    "visibilitychange",
    () => {
      clearTimeout(unseen);
      if (document.hidden) unseen = setTimeout(() => abort.abort(), UNSEEN_MS);
    },
    { signal },
  );
}

async function once() {
  const abort = new AbortController();
  let watch = setTimeout(() => abort.abort(), SILENCE_MS);
  const done = new AbortController();
  leaving(abort, done.signal);
  try {
    const answer = await fetch(`/api/v1/stream?after=${store.events.at(-1)?.seq ?? 0}`, { headers: token.headers(), signal: abort.signal });
    if (!answer.ok) throw await refusal(answer);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(watch);
      watch = setTimeout(() => abort.abort(), SILENCE_MS);
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      parts.forEach(take);
    }
  } finally {
    clearTimeout(watch);
    done.abort();
  }
}

function take(part) {
  const name = /^event: (.*)$/m.exec(part)?.[1];
  const data = /^data: (.*)$/m.exec(part)?.[1];
  if (name === "state") store.takeState(JSON.parse(data));
  else if (name === "patch") store.takePatch(JSON.parse(data));
}

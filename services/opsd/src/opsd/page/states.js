// What states mean, how they look, and who a thing is.

import { age, imageName, short } from "./format.js";
import { h, say } from "./dom.js";
import { store } from "./store.js";

/** A container's state in one word, and its tone: good, idle, warn, bad or busy. */
export function containerState(container) {
  if (container.state === "running") return ["running", "good"];
  if (container.state === "created") return ["created", "busy"];
  if (container.state === "unknown") return ["unknown", "warn"];
  if (container.state === "paused") return ["paused", "warn"];
  if (container.reason === "OOMKilled") return ["OOM killed", "bad"];
  if (container.reason === "StartError") return ["start error", "bad"];
  if (container.code === 0) return ["completed", "idle"];
  return [`exit ${container.code}`, container.code === 137 || container.code === 143 ? "warn" : "bad"];
}

export function podState(pod) {
  return { ready: ["ready", "good"], creating: ["creating", "busy"], failed: ["failed", "bad"] }[pod.state] ?? ["not ready", "idle"];
}

/** Whether somebody should look at it. */
export function troubled(container) {
  const tone = containerState(container)[1];
  return tone === "bad" || container.state === "unknown";
}

/** Pulls whose last word is that they failed: the events, the newest first. */
export function failedPulls() {
  const last = new Map();
  for (const event of store.events) {
    if (event.kind !== "image") continue;
    if (event.verb === "pull_failed" || event.verb === "pull_started") last.set(event.id, event);
    else if (event.verb === "pulled") last.delete(event.facts.reference);
  }
  return [...last.values()].filter((event) => event.verb === "pull_failed").sort((a, b) => b.at - a.at);
}

/** A dot and a word; the update takes [word, tone]. */
export function badge(cell) {
  const dot = h("i.dot");
  const word = h("span.word");
  cell.append(dot, word);
  return ([text, tone]) => {
    if (dot.className !== `dot ${tone}`) dot.className = `dot ${tone}`;
    say(word, text);
  };
}

export function podName(id) {
  const pod = store.pods.get(id);
  return pod ? `${pod.namespace}/${pod.name}` : short(id);
}

/** A name for what an event is about, and where it leads. */
export function subject(event) {
  const container = store.containers.get(event.id) ?? store.containers.get(event.facts.container_id ?? "");
  if (container) return [container.name, `#/containers/${container.id}`];
  const pod = store.pods.get(event.id);
  if (pod) return [`${pod.namespace}/${pod.name}`, `#/pods/${pod.id}`];
  if (event.kind === "image") return [imageName(event.facts.reference ?? event.id), ""];
  return [event.name ?? event.facts.name ?? store.names.get(event.id) ?? short(event.id), ""];
}

/** The tone of each verb; of those that are not here it is busy. */
const TONES = {
  bad: ["failed", "create_failed", "start_failed", "pull_failed", "oom_killed", "unknown", "record_corrupt", "event_too_large", "events_lost", "full", "layer_damaged", "layer_unread"],
  warn: ["pressure_raised", "paused"],
  good: ["ready", "started", "resumed", "pulled", "loaded", "layer_filled", "pressure_cleared", "repaired"],
  idle: ["removed", "stopped", "untagged", "layer_removed"],
};
const TONE_OF = new Map(Object.entries(TONES).flatMap(([tone, verbs]) => verbs.map((verb) => [verb, tone])));

/** The tone of an event; that of an end is its container's. */
export function eventTone(event) {
  const { exit_code: code = 0, reason } = event.facts;
  if (event.verb === "exited") return event.kind === "exec" ? (code ? "warn" : "idle") : containerState({ state: "exited", code, reason })[1];
  return TONE_OF.get(event.verb) ?? "busy";
}

/** The facts of an event in one line, without where it is on the node. */
export function facts(event) {
  return Object.entries(event.facts)
    .filter(([name]) => name !== "path")
    .map(([name, value]) => `${name.replace(/_/g, " ")} ${fact(name, value)}`)
    .join("  ·  ");
}

function fact(name, value) {
  if (name.endsWith("_id")) return short(String(value));
  if (name === "duration_ms") return `${value} ms`;
  return Array.isArray(value) ? value.join(" ") : String(value);
}

/** How long it has been what it is. */
export function lasted(container) {
  const since = container.finished || container.started || container.created;
  return since ? age(store.now() - since) : "–";
}

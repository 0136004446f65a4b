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

/** The tone of an event. */
export function eventTone(event) {
  if (event.verb === "exited") return event.facts.reason && event.facts.reason !== "Completed" ? "bad" : "idle";
  if (/failed|oom|corrupt|unknown|raised|pressure/.test(event.verb)) return "bad";
  if (/ready|started|pulled|loaded|cleared/.test(event.verb)) return "good";
  if (/removed|stopped|untagged/.test(event.verb)) return "idle";
  return "busy";
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

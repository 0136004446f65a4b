// All at a glance: nodes, what wants attention, pulls, and what happens now.

import { age, bytes, clock, imageName, percent, span } from "./format.js";
import { badge, containerState, eventTone, failedPulls, podName, podState, subject, troubled } from "./states.js";
import { dress, h, say } from "./dom.js";
import { meter, sparkline } from "./chart.js";
import { store } from "./store.js";

const ATTENTION = 12;
const RECENT = 14;

export function overview() {
  const tiles = ["Nodes", "Pods ready", "Running", "Attention", "Events / min"].map(tile);
  const nodes = h("div.nodes");
  const pulls = h("div.pulls");
  const pullsPanel = h("section.panel", {}, h("h2", {}, "Pulls in progress"), pulls);
  const attention = h("ol.feed");
  const recent = h("ol.feed.recent");
  const cards = new Map();
  const element = h(
    "div.overview",
    {},
    h("div.tiles", {}, tiles.map((each) => each.element)),
    h("section.panel", {}, h("h2", {}, "Nodes"), nodes),
    pullsPanel,
    h(
      "div.columns",
      {},
      h("section.panel", {}, h("h2", {}, h("a", { href: "#/containers?state=attention" }, "Attention")), attention),
      h("section.panel", {}, h("h2", {}, h("a", { href: "#/events" }, "Now")), recent),
    ),
  );
  const update = () => {
    const containers = [...store.containers.values()];
    const wanting = troubles(containers);
    const up = [...store.nodes.values()].filter((node) => node.up).length;
    if (!store.known) {
      tiles.forEach((each) => each.set("–"));
      [nodes, attention, recent].forEach((each) => each.replaceChildren(h("p.quiet", {}, "–")));
      pullsPanel.hidden = true;
      return;
    }
    tiles[0].set(`${up} / ${store.nodes.size}`, up < store.nodes.size ? "bad" : "");
    tiles[1].set(`${[...store.pods.values()].filter((pod) => pod.state === "ready").length} / ${store.pods.size}`);
    tiles[2].set(`${containers.filter((each) => each.state === "running").length} / ${containers.length}`);
    tiles[3].set(wanting.length, wanting.length ? "warn" : "");
    tiles[4].set(perMinute());
    drawNodes(nodes, cards);
    drawPulls(pulls);
    pullsPanel.hidden = !pulls.childElementCount;
    attention.replaceChildren(...(wanting.length ? wanting.slice(0, ATTENTION).map(attentionRow) : [h("li.quiet", {}, "Nothing failed.")]));
    const last = store.events.slice(-RECENT).reverse();
    recent.replaceChildren(...(last.length ? last.map(eventRow) : [h("li.quiet", {}, "No events yet.")]));
  };
  return { element, update, title: "Overview" };
}

function tile(title) {
  const value = h("strong");
  const element = h("div.tile", {}, h("span", {}, title), value);
  return {
    element,
    set: (text, tone = "") => {
      say(value, text);
      dress(value, tone);
    },
  };
}

function perMinute() {
  const since = store.now() - 60000;
  let count = 0;
  for (let index = store.events.length - 1; index >= 0 && store.events[index].at >= since; index -= 1) count += 1;
  return count;
}

function drawNodes(container, cards) {
  const names = [...store.nodes.keys()].sort();
  for (const [name, card] of cards) {
    if (store.nodes.has(name)) continue;
    card.element.remove();
    cards.delete(name);
  }
  for (const name of names) {
    if (!cards.has(name)) {
      cards.set(name, nodeCard(name));
      container.append(cards.get(name).element);
    }
    cards.get(name).update(store.nodes.get(name));
  }
  if (!names.length && !container.childElementCount) container.append(h("p.quiet", {}, "No node has been heard of yet."));
  else if (names.length) container.querySelector(".quiet")?.remove();
}

function nodeCard(name) {
  const title = h("span.name");
  const show = badge(title);
  const [cpu, memory] = [sparkline(120, 26), sparkline(120, 26)];
  const [cpuText, memoryText, diskText, counts, note] = [h("b"), h("b"), h("b"), h("span.counts"), h("p.note")];
  const memoryOf = h("b.of");
  const disk = meter();
  const pressure = ["cpu", "memory", "io"].map((kind) => ({ kind, bar: meter("pressure"), text: h("b") }));
  const element = h(
    "article.nodecard",
    {},
    h("header", {}, title, counts),
    h("div.gauge", {}, h("label", {}, "CPU ", cpuText), cpu.element),
    h("div.gauge", {}, h("label", {}, "Memory ", memoryText, memoryOf), memory.element),
    h("div.gauge", {}, h("label", {}, "Disk ", diskText), disk.element),
    h("div.gauge.pressures", { title: "Pressure: share of the last 10 s in which something waited" }, pressure.map((p) => h("span", {}, h("label", {}, `${p.kind === "memory" ? "mem" : p.kind} `, p.text), p.bar.element))),
    note,
  );
  const update = (node) => {
    const machine = node.machine;
    const silent = store.now() - node.heard;
    show([name, node.up ? "good" : "bad"]);
    const mine = [...store.containers.values()].filter((each) => each.node === name);
    say(counts, `${mine.filter((each) => each.state === "running").length} running${machine?.uptime_s ? ` · up ${age(machine.uptime_s * 1000)}` : ""}${machine?.kernel ? ` · ${machine.kernel}` : ""}`);
    cpu.draw(node.cpu, 1);
    memory.draw(node.memory, 1);
    if (machine) {
      say(cpuText, percent(machine.cpu));
      say(memoryText, percent(machine.memory_total ? machine.memory_used / machine.memory_total : 0));
      say(memoryOf, ` of ${bytes(machine.memory_total)}`);
      const share = machine.disk_total ? machine.disk_used / machine.disk_total : 0;
      say(diskText, `${percent(share)} of ${bytes(machine.disk_total)}`);
      disk.draw(share, share > 0.9 ? "bad" : share > 0.8 ? "warn" : "");
      for (const { kind, bar, text } of pressure) {
        const value = machine.pressure[kind];
        say(text, value === null || value === undefined ? "–" : value.toFixed(1));
        bar.draw((value ?? 0) / 100, value > 40 ? "bad" : value > 10 ? "warn" : "");
      }
    }
    const told = [node.up ? "" : `Silent for ${span(silent)}.`, troubleOf(node)].filter(Boolean).join("  ");
    say(note, told);
    note.hidden = !told;
    element.classList.toggle("down", !node.up);
  };
  return { element, update };
}

function drawPulls(container) {
  const rows = [];
  for (const node of store.nodes.values()) {
    for (const pull of node.pulls ?? []) {
      const size = pull.layers.reduce((sum, layer) => sum + layer.size, 0);
      const got = pull.layers.reduce((sum, layer) => sum + layer.fetched, 0);
      const bar = meter("wide");
      bar.draw(size ? got / size : 0);
      const left = got === size || !Number.isFinite(pull.left_s) ? "" : ` · ${span(pull.left_s * 1000)} left`;
      rows.push(h("div.pull", {}, h("span.name", {}, pull.reference), h("span.quiet", {}, node.name), bar.element, h("span.number", {}, `${bytes(got)} of ${bytes(size)} · ${pull.layers.length} layers${left}`)));
    }
  }
  container.replaceChildren(...rows);
}

/** What somebody should look at: nodes first, then what failed last. */
function troubles(containers) {
  const nodes = [...store.nodes.values()].filter((node) => !node.up || troubleOf(node));
  const pods = [...store.pods.values()].filter((pod) => pod.state === "failed");
  const things = [
    ...pods.map((pod) => ({ state: podState(pod), what: `${pod.namespace}/${pod.name}`, about: pod.node, at: pod.created, href: `#/pods/${pod.id}` })),
    ...failedPulls().map((event) => ({ state: ["pull failed", "bad"], what: imageName(event.id), about: event.facts.error ?? "", at: event.at, href: `#/events?${new URLSearchParams({ q: event.id, kind: "image" })}` })),
    ...containers.filter(troubled).map((each) => ({ state: containerState(each), what: each.name, about: podName(each.pod), at: each.finished || each.started || each.created, href: `#/containers/${each.id}` })),
  ];
  return [
    ...nodes.map((node) => ({ state: [node.up ? "not ready" : "silent", "bad"], what: node.name, about: node.up ? troubleOf(node) : "nothing is heard of this node", at: node.up ? 0 : node.heard })),
    ...things.sort((a, b) => b.at - a.at),
  ];
}

function troubleOf(node) {
  const failed = node.conditions.filter((each) => !each.ok).map((each) => `${each.name}: ${each.message}`);
  return [...failed, ...(node.problem ? [`runtimed: ${node.problem}`] : [])].join("  ");
}

function attentionRow({ state, what, about, at, href }) {
  const cell = h("span.state");
  badge(cell)(state);
  const words = [cell, h("span.what", { title: what }, what), h("span.quiet", { title: about }, about), h("time", {}, at ? `${age(store.now() - at)} ago` : "")];
  return h("li", {}, href ? h("a", { href }, words) : h("span.row", {}, words));
}

function eventRow(event) {
  const [name, href] = subject(event);
  const words = [h(`i.dot.${eventTone(event)}`), h("span.kind", {}, `${event.kind} ${event.verb.replace(/_/g, " ")}`), h("span.what", {}, name), h("time", {}, clock(event.at))];
  return h("li", {}, href ? h("a", { href }, words) : h("span.row", {}, words));
}

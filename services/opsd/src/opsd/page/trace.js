// Spans as a waterfall. A life has long silences: what belongs together in time is drawn together, with its own scale.

import { clock, span } from "./format.js";
import { h } from "./dom.js";

const SILENCE_MS = 2000;

/** The element for the spans of `/trace`. */
export function waterfall(spans) {
  if (!spans.length) return h("p.quiet", {}, "No spans are held of it. They are kept in memory by its node's opsd, the newest longest.");
  const parts = split([...spans].sort((a, b) => a.start - b.start));
  const elements = [];
  parts.forEach((part, index) => {
    if (index) elements.push(h("p.silence", {}, span(part.start - parts[index - 1].end)));
    elements.push(draw(part));
  });
  return h("div.waterfall", {}, legend(spans), elements);
}

function split(spans) {
  const parts = [];
  for (const each of spans) {
    const end = each.start + each.ms;
    const last = parts.at(-1);
    if (last && each.start <= last.end + SILENCE_MS) {
      last.spans.push(each);
      last.end = Math.max(last.end, end);
    } else parts.push({ start: each.start, end, spans: [each] });
  }
  return parts;
}

function draw({ start, end, spans }) {
  const length = Math.max(end - start, 0.1);
  const rows = ordered(spans).map(([each, depth]) => row(each, depth, start, length));
  return h("section.burst", {}, h("header", {}, h("time", {}, clock(start, { millis: true })), h("span", {}, span(length))), rows);
}

/** Spans below their parents, each with its depth. */
function ordered(spans) {
  const known = new Set(spans.map((each) => each.id));
  const below = new Map();
  for (const each of spans) {
    const parent = known.has(each.parent) ? each.parent : "";
    below.set(parent, [...(below.get(parent) ?? []), each]);
  }
  const found = [];
  const walk = (parent, depth) => {
    for (const each of below.get(parent) ?? []) {
      found.push([each, depth]);
      if (depth < 60) walk(each.id, depth + 1);
    }
  };
  walk("", 0);
  return found;
}

function row(each, depth, start, length) {
  const bar = h(`i.stretch.${service(each.service)}${each.error ? ".failed" : ""}`);
  bar.style.left = `${((each.start - start) / length) * 100}%`;
  bar.style.width = `max(2px, ${(each.ms / length) * 100}%)`;
  const label = h("span.label", {}, h("b", { title: each.name }, each.name.replace(/^[\w.]+\.(\w+\/)/, "$1")), h("span.quiet", {}, each.service));
  label.style.paddingLeft = `${depth * 12}px`;
  const more = Object.entries(each.attributes).map(([name, value]) => h("li", {}, h("span.quiet", {}, `${name} `), value));
  if (each.error) more.unshift(h("li.bad", {}, each.error));
  return h("details.span", {}, h("summary", {}, label, h("span.track", {}, bar), h("span.ms", {}, span(each.ms))), h("ul", {}, more.length ? more : h("li.quiet", {}, "no attributes")));
}

function service(name) {
  return ["crid", "runtimed", "shimd", "imaged", "snapshotd"].includes(name) ? name : "other";
}

function legend(spans) {
  const names = [...new Set(spans.map((each) => each.service))].sort();
  return h("p.legend", {}, names.map((name) => h("span", {}, h(`i.stretch.${service(name)}`), name)));
}

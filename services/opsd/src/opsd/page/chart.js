// Lines over time, as SVG: small ones in tables, larger ones with a scale.

import { h, s } from "./dom.js";

const POINTS = 60;

/** A line without words; `draw(values, max)` moves it. */
export function sparkline(width = 88, height = 20) {
  const area = s("path.area");
  const line = s("path.line");
  const element = s("svg.spark", { viewBox: `0 0 ${width} ${height}`, width, height, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  let last = "";
  const draw = (values, max) => {
    const path = trace(values, max, width, height);
    if (path === last) return;
    last = path;
    line.setAttribute("d", path);
    area.setAttribute("d", path && `${path}V${height}H${startOf(values, width)}Z`);
  };
  return { element, draw };
}

function startOf(values, width) {
  return (width - ((values.length - 1) * width) / (POINTS - 1)).toFixed(1);
}

function trace(values, max, width, height) {
  if (!values || values.length < 2) return "";
  const top = max || Math.max(...values) || 1;
  const step = width / (POINTS - 1);
  const start = width - (values.length - 1) * step;
  const y = (value) => (height - 1.5 - (Math.min(value, top) / top) * (height - 3)).toFixed(1);
  return values.map((value, index) => `${index ? "L" : "M"}${(start + index * step).toFixed(1)} ${y(value)}`).join("");
}

/** A larger one with its present value, its highest, and a limit if there is one. */
export function chart(title, format) {
  const [width, height] = [600, 110];
  const area = s("path.area");
  const line = s("path.line");
  const limit = s("path.limit");
  const svg = s("svg.plot", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line, limit);
  const now = h("strong.value");
  const top = h("span.top");
  const element = h("figure.chart", {}, h("figcaption", {}, h("span", {}, title), now), h("div.frame", {}, svg, top));
  const draw = (values, bound) => {
    const highest = Math.max(...(values?.length ? values : [0]));
    const max = bound && highest > bound / 4 ? bound * 1.08 : highest * 1.15 || 1;
    const path = trace(values, max, width, height);
    line.setAttribute("d", path);
    area.setAttribute("d", path && `${path}V${height}H${startOf(values, width)}Z`);
    const at = bound ? height - (bound / max) * height : -1;
    limit.setAttribute("d", at >= 0 ? `M0 ${at.toFixed(1)}H${width}` : "");
    now.textContent = values?.length ? format(values.at(-1)) : "–";
    top.textContent = values?.length ? `highest ${format(highest)}${bound ? `, limit ${format(bound)}` : ""}` : "no readings yet";
  };
  return { element, draw };
}

/** A bar that is full at 1. */
export function meter(kind = "") {
  const fillElement = h("i");
  const element = h(`span.meter${kind ? `.${kind}` : ""}`, {}, fillElement);
  const draw = (share, level = "") => {
    fillElement.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    fillElement.className = level;
  };
  return { element, draw };
}

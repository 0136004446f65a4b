// Elements from data. Text only ever becomes a text node: no name and no log line is read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("a.row", {href, onclick}, child, "text")`. */
export function h(spec, props = {}, ...children) {
  return fill(document.createElement(spec.split(".")[0]), spec, props, children);
}

/** The same in SVG. */
export function s(spec, props = {}, ...children) {
  return fill(document.createElementNS(SVG, spec.split(".")[0]), spec, props, children);
}

function fill(element, spec, props, children) {
  const classes = spec.split(".").slice(1);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A sentence of the server as a person reads it: what stands between backquotes is typed. */
export function prose(text) {
  const [first, ...rest] = text.split("`");
  return [first.charAt(0).toUpperCase() + first.slice(1), ...rest.map((part, index) => (index % 2 ? part : h("code", {}, part)))];
}

/** A dialog that only tells. */
export function dialog(kind, ...content) {
  const element = h(`dialog.${kind}`, { onclose: () => element.remove() }, content, h("form", { method: "dialog" }, h("button.primary", {}, "Close")));
  document.body.append(element);
  element.showModal();
}

/** Sets the text of an element, if it is another. */
export function say(element, text) {
  const wanted = String(text ?? "");
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Sets its classes, if they are others. */
export function dress(element, classes) {
  if (element.getAttribute("class") !== classes) element.setAttribute("class", classes);
}

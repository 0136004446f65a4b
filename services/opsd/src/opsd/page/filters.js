// The bar above a list: words to look for, and choices. What is chosen stands in the address.

import { h } from "./dom.js";

export function filters({ path, params, choices }) {
  const values = Object.fromEntries(params);
  const field = h("input.search", { type: "search", placeholder: "Filter  /", "aria-label": "Filter", value: values.q ?? "", spellcheck: "false", autocomplete: "off" });
  const counted = h("span.count", { "aria-live": "polite" });
  const bar = { element: null, onchange: () => {}, values: () => values, focus: () => field.focus(), count };
  const groups = Object.entries(choices).map(([name, options]) => group(name, options));
  field.addEventListener("input", () => choose("q", field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      if (field.value) choose("q", (field.value = ""));
      field.blur();
      event.stopPropagation();
    }
  });
  bar.element = h("div.bar", {}, field, groups, counted);
  return bar;

  function group(name, options) {
    const buttons = options.map((option) => h("button", { type: "button", onclick: () => choose(name, option === options[0] ? "" : option), "data-option": option }, option));
    const element = h("div.choice", { role: "group", "aria-label": name }, buttons);
    element.mark = () => buttons.forEach((button, index) => button.setAttribute("aria-pressed", String((values[name] || options[0]) === options[index])));
    element.mark();
    return element;
  }

  function choose(name, value) {
    if (value) values[name] = value;
    else delete values[name];
    groups.forEach((each) => each.mark());
    const query = new URLSearchParams(values).toString();
    history.replaceState(null, "", `#/${path}${query ? `?${query}` : ""}`);
    bar.onchange();
  }

  function count(found, all) {
    counted.textContent = found === all ? `${all}` : `${found} of ${all}`;
  }
}

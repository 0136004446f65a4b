// A container's log: its end, and what comes.

import { h, say } from "./dom.js";
import { ask } from "./session.js";
import { locked } from "./actions.js";
import { plain } from "./format.js";

const EVERY_MS = 1000;
const KEPT = 5000;

export function logs(id) {
  let cursor = "";
  let timer = 0;
  let open = true;
  const lines = h("div.lines", { role: "log", tabindex: "0" });
  const field = h("input.search", { type: "search", placeholder: "Find in log", "aria-label": "Find in log", oninput: find });
  const wrap = toggle("Wrap", true, (on) => lines.classList.toggle("wrap", on));
  const times = toggle("Times", true, (on) => lines.classList.toggle("times", on));
  const following = toggle("Follow", true, () => {});
  const note = h("span.count");
  const shown = [h("div.bar", {}, field, wrap, times, following, note), lines];
  const element = h("div.logs", {}, shown);
  lines.classList.add("wrap", "times");

  function find() {
    const wanted = field.value.toLowerCase();
    let found = 0;
    for (const line of lines.children) {
      line.hidden = Boolean(wanted) && !line.textContent.toLowerCase().includes(wanted);
      found += line.hidden ? 0 : 1;
    }
    say(note, wanted ? `${found} of ${lines.childElementCount} lines` : "");
  }

  async function more() {
    try {
      const found = await ask(`/api/v1/containers/${id}/logs?${new URLSearchParams({ lines: 1000, ...(cursor && { cursor }) })}`);
      if (!open) return;
      if (!lines.isConnected) element.replaceChildren(...shown);
      if (found.skipped && cursor) lines.append(h("div.gap", {}, "… lines left out: it writes faster than this page reads …"));
      cursor = found.cursor;
      add(found.lines);
      if (!lines.childElementCount) say(note, found.missing ? "the log file is gone" : "no output yet");
      else if (!field.value) say(note, "");
    } catch (error) {
      if (error.status === 403) return element.replaceChildren(locked(error.message, more));
      say(note, error.message);
    }
    if (open) timer = setTimeout(more, EVERY_MS);
  }

  function add(found) {
    if (!found.length) return;
    lines.append(...found.map(([at, stream, text, whole]) => h(`div.line.${stream === "stderr" ? "stderr" : "stdout"}`, {}, h("time", {}, at.slice(11, 23)), h("span", {}, plain(text) + (whole ? "" : "⏎̸")))));
    while (lines.childElementCount > KEPT) lines.firstChild.remove();
    if (field.value) find();
    if (following.getAttribute("aria-pressed") === "true") lines.scrollTop = lines.scrollHeight;
  }

  return {
    element,
    load: more,
    update: () => {},
    close: () => {
      open = false;
      clearTimeout(timer);
    },
  };
}

function toggle(text, on, act) {
  const button = h("button", { type: "button", "aria-pressed": String(on) }, text);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    act(now);
  });
  return button;
}

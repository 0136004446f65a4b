// The frame: where one is, the keyboard, light and dark, and whether what is shown is true now.

import { askForToken } from "./actions.js";
import { container, pod } from "./detail.js";
import { containers, pods } from "./lists.js";
import { dress, h, say } from "./dom.js";
import { events } from "./events.js";
import { follow, store } from "./store.js";
import { overview } from "./overview.js";
import { span } from "./format.js";
import { token } from "./session.js";

const PLACES = [["overview", "Overview", "o"], ["containers", "Containers", "c"], ["pods", "Pods", "p"], ["events", "Events", "e"]];
const THEMES = ["auto", "light", "dark"];
const KEYS = [["/", "filter"], ["j  k", "next, previous row"], ["Enter", "open the row"], ["Esc", "back"], ["g o  g c  g p  g e", "overview, containers, pods, events"], ["1 – 5", "parts of a container"], ["t", "light or dark"], ["?", "this list"]];

let view = null;
let leading = false;
const place = h("main", { id: "main", tabindex: "-1" });
const links = PLACES.map(([path, title, key]) => h("a", { href: `#/${path}`, title: `g ${key}` }, title));
const link = h("span.link", { role: "status" });
const theme = h("button.icon", { type: "button", title: "Light or dark (t)", "aria-label": "Light or dark", onclick: turnTheme }, "◐");
const help = h("button.icon", { type: "button", title: "Keys (?)", "aria-label": "Keys", onclick: showHelp }, "?");
const banner = h("p.banner", { role: "alert", hidden: true });

function route() {
  token.arrive();
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/").map(decodeURIComponent);
  const params = new URLSearchParams(query);
  view?.close?.();
  if (id && name === "containers") view = container(id);
  else if (id && name === "pods") view = pod(id);
  else if (name === "containers") view = containers(params);
  else if (name === "pods") view = pods(params);
  else if (name === "events") view = events(params);
  else view = overview();
  links.forEach((each, index) => each.toggleAttribute("aria-current", PLACES[index][0] === (name || "overview")));
  place.replaceChildren(view.element);
  draw();
}

/** Goes there in this turn: a change of the hash by itself would be told after what waits already. */
function visit(hash) {
  if (!hash || location.hash === hash) return;
  history.pushState(null, "", hash);
  route();
}

function draw() {
  view.update();
  document.title = `${view.title} · Slipway`;
  const lost = store.stream === "lost" ? `This page has lost its opsd ${span(Date.now() - store.lostSince)} ago and tries again.` : "";
  const away = store.stream === "live" && !store.link.connected ? `NATS is away${store.link.since ? ` for ${span(store.now() - store.link.since)}` : ""}: what is shown is what was known then. It comes back by itself.` : "";
  say(banner, lost || away);
  banner.hidden = !banner.textContent;
  const [word, tone] = store.stream === "waiting" ? ["connecting", "busy"] : lost ? ["lost", "bad"] : away ? ["NATS away", "bad"] : ["live", "good"];
  dress(link, `link ${tone}`);
  say(link, word);
}

function turnTheme() {
  const next = THEMES[(THEMES.indexOf(localStorage.getItem("slipway-theme") ?? "auto") + 1) % THEMES.length];
  localStorage.setItem("slipway-theme", next);
  setTheme(next);
}

function setTheme(name) {
  if (name === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", name);
}

function showHelp() {
  const element = h("dialog.help", { onclose: () => element.remove() }, h("h2", {}, "Keys"), h("dl", {}, KEYS.flatMap(([keys, text]) => [h("dt", {}, keys.split("  ").map((key) => h("kbd", {}, key))), h("dd", {}, text)])), h("form", { method: "dialog" }, h("button.primary", {}, "Close")));
  document.body.append(element);
  element.showModal();
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) return;
  const go = leading && PLACES.find(([, , key]) => key === event.key);
  leading = event.key === "g";
  if (go) visit(`#/${go[0]}`);
  else if (event.key === "/") view.focus?.();
  else if (event.key === "j" || event.key === "ArrowDown") view.move?.(1);
  else if (event.key === "k" || event.key === "ArrowUp") view.move?.(-1);
  else if (event.key === "Enter" && !event.target.closest("a, button, summary")) visit(view.chosen?.());
  else if (event.key === "Escape" && location.hash.split("/").length > 2) history.back();
  else if (event.key === "t") turnTheme();
  else if (event.key === "?") showHelp();
  else if (/^[1-9]$/.test(event.key)) view.digit?.(Number(event.key));
  else return;
  if (!leading) event.preventDefault();
}

async function start() {
  setTheme(localStorage.getItem("slipway-theme") ?? "auto");
  document.body.append(
    h("header.top", {}, h("a.brand", { href: "#/overview" }, h("img", { src: "/icon.svg", alt: "", width: 20, height: 20 }), "Slipway"), h("nav.places", {}, links), link, theme, help),
    banner,
    place,
  );
  addEventListener("hashchange", route);
  addEventListener("keydown", press);
  store.addEventListener("change", draw);
  setInterval(() => store.changed(), 1000);
  route();
  for (;;) {
    await follow();
    if (!(await askForToken("This dashboard is read with its token."))) return;
  }
}

start();

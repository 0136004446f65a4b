// The frame: where one is, the keyboard, light and dark, and whether what is shown is true now.

import { askForToken } from "./actions.js";
import { container, pod } from "./detail.js";
import { containers, pods } from "./lists.js";
import { dialog, dress, h, prose, say } from "./dom.js";
import { events } from "./events.js";
import { follow, store } from "./store.js";
import { overview } from "./overview.js";
import { decoded, span } from "./format.js";
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
  const [name, id] = path.split("/").map(decoded);
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
  const why = store.trouble && ` ${sentence(store.trouble)}`;
  const lost = store.stream === "lost" ? `This page has lost its opsd ${span(Date.now() - store.lostSince)} ago and tries again.${why}` : "";
  const unheard = store.stream === "waiting" && why ? `There is nothing to show yet, and this page tries again.${why}` : "";
  const away = store.stream === "live" && !store.link.connected ? `NATS is away${store.link.since ? ` for ${span(store.now() - store.link.since)}` : ""}: what is shown is what was known then. It comes back by itself.` : "";
  if (store.stream !== "refused") say(banner, lost || unheard || away);
  banner.hidden = !banner.textContent;
  const [word, tone] = store.stream === "refused" ? ["locked", "bad"] : store.stream === "waiting" ? ["connecting", "busy"] : lost ? ["lost", "bad"] : away ? ["NATS away", "bad"] : ["live", "good"];
  dress(link, `link ${tone}`);
  say(link, word);
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

/** Says that the page may not read, until the person wants to give the token after all. */
function refused() {
  return new Promise((resolve) => {
    banner.replaceChildren(...prose(`${store.trouble} `), h("button", { type: "button", onclick: resolve }, "Give the token"));
    banner.hidden = false;
  });
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
  dialog("help", h("h2", {}, "Keys"), h("dl", {}, KEYS.flatMap(([keys, text]) => [h("dt", {}, keys.split("  ").map((key) => h("kbd", {}, key))), h("dd", {}, text)])));
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
    while (!(await askForToken("This dashboard is read with its token."))) await refused();
    store.lose("");
  }
}

start();

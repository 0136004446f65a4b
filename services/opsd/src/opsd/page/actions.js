// What changes something: asked once more, and with the token.

import { ask, session, token } from "./session.js";
import { h, prose, say } from "./dom.js";

/** Stops, kills or removes a container or pod, if the person means it. */
export async function act(kind, id, what, name) {
  if (!token.get() && !(await askForToken("This changes something, and wants the token of the dashboard."))) return;
  if (!(await confirmed(`${what} ${kind} ${name}?`, what))) return;
  try {
    await ask(`/api/v1/${kind}s/${id}/${what}`, { method: "POST" });
    toast(`${name}: ${what} was done`);
  } catch (error) {
    toast(error.message, "bad");
    if (error.status === 403) token.set("");
  }
}

/** Asks for the token until it is right or the person gives up. */
export async function askForToken(reason) {
  const field = h("input", { type: "password", autocomplete: "off", "aria-label": "Token", required: true });
  const note = h("p.bad");
  for (;;) {
    const given = await dialog([h("p", {}, prose(reason)), h("p.quiet", {}, prose("`slipway dashboard` on the node prints a link with it. It is kept in this tab only.")), field, note], "Use it", () => field.value.trim());
    if (!given) return false;
    token.set(given);
    try {
      if ((await session()).token) return true;
      say(note, "That is not the token.");
    } catch (error) {
      say(note, error.message);
    }
    token.set("");
  }
}

/** In place of what wants the token: why, and the way to give it; `again` is called when it is there. */
export function locked(message, again) {
  const give = async () => (await askForToken(message)) && again();
  return h("div.locked", {}, h("p", {}, prose(message)), h("button", { type: "button", onclick: give }, "Give the token"));
}

function confirmed(question, word) {
  return dialog([h("p", {}, prose(question))], word, () => true, word === "stop" ? "" : "danger");
}

function dialog(content, word, value, tone = "") {
  return new Promise((resolve) => {
    const element = h(
      "dialog",
      { onclose: () => (element.remove(), resolve(element.returnValue === "yes" ? value() : false)) },
      h("form", { method: "dialog" }, content, h("menu", {}, h("button", { value: "no", type: "button", onclick: () => element.close("no") }, "Cancel"), h(`button.primary${tone && `.${tone}`}`, { value: "yes" }, word))),
    );
    document.body.append(element);
    element.showModal();
  });
}

/** A sentence that goes by itself. */
export function toast(text, tone = "good") {
  const element = h(`div.toast.${tone}`, { role: "status" }, text);
  document.body.append(element);
  setTimeout(() => element.remove(), 6000);
}

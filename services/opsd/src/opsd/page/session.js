// The token, for this tab only, and requests that carry it.

import { decoded } from "./format.js";

const KEY = "slipway-token";
const IN_LINK = /^#token=(.+)$/;

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
  /** Takes the token out of the link that `slipway dashboard` prints; neither the address bar nor the way back keeps it. */
  arrive: () => {
    const found = IN_LINK.exec(location.hash);
    if (!found) return;
    token.set(decoded(found[1]));
    history.replaceState(null, "", "#/overview");
  },
  headers: () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {}),
};

/** The JSON of one request; an error has the server's sentence and its status. */
export async function ask(path, { method = "GET", signal } = {}) {
  const answer = await fetch(path, { method, headers: token.headers(), signal });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

/** The error of an answer that is one. */
export async function refusal(answer) {
  const { message } = await answer.json().catch(() => ({ message: `${answer.status} ${answer.statusText}` }));
  return Object.assign(new Error(message), { status: answer.status });
}

/** Whether the token that we have is right, and whether reading wants one. */
export function session() {
  return ask("/api/v1/session");
}

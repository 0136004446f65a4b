// The token, for this tab only, and requests that carry it.

const KEY = "slipway-token";
const IN_LINK = /^#token=(.+)$/;

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
  /** Takes the token out of the link that `slipway dashboard` prints; neither the address bar nor the way back keeps it. */
  arrive: () => {
    const found = IN_LINK.exec(location.hash);
    if (!found) return;
    token.set(decodeURIComponent(found[1]));
    history.replaceState(null, "", "#/overview");
  },
  headers: () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {}),
};

/** The JSON of one request; an error has the server's sentence and its status. */
export async function ask(path, { method = "GET", signal } = {}) {
  const answer = await fetch(path, { method, headers: token.headers(), signal });
  const body = await answer.json().catch(() => ({ message: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw Object.assign(new Error(body.message), { status: answer.status });
  return body;
}

/** Whether the token that we have is right, and whether reading wants one. */
export function session() {
  return ask("/api/v1/session");
}

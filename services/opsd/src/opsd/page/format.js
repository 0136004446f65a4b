// Numbers and times as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes, with three digits that count. */
export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toPrecision(3)} ${UNITS[unit]}`;
}

/** A length of time in milliseconds, in two units at most. */
export function span(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return ms < 10000 ? `${(ms / 1000).toFixed(1)} s` : `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${String(seconds % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} m`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** How long ago, in one unit. */
export function age(ms) {
  if (!Number.isFinite(ms)) return "–";
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** Thousandths of a core as percent of one. */
export function cores(milli) {
  return `${milli < 100 ? (milli / 10).toFixed(1) : Math.round(milli / 10)} %`;
}

export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

const pad = (number, digits = 2) => String(number).padStart(digits, "0");

/** The time of day, with the date when it is another day. */
export function clock(ms, { millis = false } = {}) {
  if (!ms) return "–";
  const at = new Date(ms);
  const day = new Date().toDateString() === at.toDateString() ? "" : `${pad(at.getMonth() + 1)}-${pad(at.getDate())} `;
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  return day + time + (millis ? `.${pad(at.getMilliseconds(), 3)}` : "");
}

/** What a `datetime-local` field wants. */
export function localInput(ms) {
  const at = new Date(ms);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

/** Part of an address without its escapes; as it is, when they are wrong. */
export function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The beginning of an id. */
export function short(id) {
  return id.replace(/^sha256:/, "").slice(0, 12);
}

/** An image's name without what every name has. */
export function imageName(name) {
  return name.replace(/^docker\.io\/library\//, "").replace(/^sha256:([0-9a-f]{12}).*/, "$1").replace(/@sha256:([0-9a-f]{12}).*/, "@$1");
}

// eslint-disable-next-line no-control-regex
const CONTROL = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0b-\x1f\x7f]/g;

/** Text of a container without what would steer a terminal. */
export function plain(text) {
  return text.replace(CONTROL, "");
}

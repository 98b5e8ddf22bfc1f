// In: the text of `/metrics`. Out: numbers over the last minutes: shares, rates, and times that so many stay below.
import { signal } from "./html.js";
import { ApiError, send } from "./api.js";

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const MOST_KEPT = 360;
// Rates and times are of this long before each point.
const WINDOW_S = 300;

/** @typedef {{labels: Record<string, string>, value: number}} Sample */
/** @typedef {{at: number, found: Map<string, Sample[]>}} Look */

/** Read the text format of Prometheus. @param {string} text @returns {Map<string, Sample[]>} by name */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const [, name, said = "", value] = LINE.exec(line) ?? [];
    if (!name) continue;
    const labels = Object.fromEntries([...said.matchAll(LABEL)].map(([, key, quoted]) => [key, quoted.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign))]));
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels, value: Number(value.replace("Inf", "Infinity")) });
  }
  return found;
}

/** @type {{value: Look[]}} oldest first; empty while this key may not read metrics */
export const looks = signal([]);

const NOT_FOR_US = [401, 403, 404];
let isClosed = false;

/** Look once; not again once it was said that this key may not, or that there are none. */
export async function look() {
  if (isClosed) return;
  try {
    const text = await (await send("/metrics")).text();
    looks.value = [...looks.value.slice(1 - MOST_KEPT), { at: Date.now() / 1000, found: parse(text) }];
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    isClosed = NOT_FOR_US.includes(error.status);
  }
}

const matching = (look, name, where) => (look?.found.get(name) ?? []).filter((each) => Object.entries(where).every(([key, value]) => each.labels[key] === value));

/** The sum of what has this name and these labels; null if there is none. @param {Look} look */
export function total(look, name, where = {}) {
  const all = matching(look, name, where);
  return all.length ? all.reduce((sum, each) => sum + each.value, 0) : null;
}

/** The look that the window before the one at `index` begins with; none until the page has looked for so long: then all counts. */
const before = (all, index) => all.findLast((each) => each.at <= all[index].at - WINDOW_S);

/** How much a counter grew within the window, at each look. */
export const growth = (all, name, where = {}) => all.map((each, index) => {
  const now = total(each, name, where);
  const from = total(before(all, index), name, where) ?? 0;
  return now === null ? null : now < from ? now : now - from; // a process that was started anew counts anew
});

/**
 * Growth per minute since the window began, or the page began to look; the first look has nothing to compare with.
 * What has labels is not there before it was counted once.
 */
export const perMinute = (all, name, where = {}) => all.map((each, index) => {
  const from = before(all, index) ?? all[0];
  const grown = (total(each, name, where) ?? 0) - (total(from, name, where) ?? 0);
  return from === each ? null : (60 * Math.max(0, grown)) / (each.at - from.at);
});

/** The time that a share of all stays below, at each look: within its bucket as Prometheus reckons. */
export function quantile(all, name, share, where = {}) {
  return all.map((each, index) => {
    const from = before(all, index);
    const counts = new Map();
    for (const [look, sign] of [[each, 1], [from, -1]]) {
      for (const { labels, value } of matching(look, `${name}_bucket`, where)) {
        const bound = Number(labels.le.replace("+Inf", "Infinity"));
        counts.set(bound, (counts.get(bound) ?? 0) + sign * value);
      }
    }
    const buckets = [...counts].sort(([a], [b]) => a - b);
    const wanted = share * (buckets.at(-1)?.[1] ?? 0);
    if (!(wanted > 0)) return null;
    const at = buckets.findIndex(([, count]) => count >= wanted);
    const [bound, count] = buckets[at];
    const [low, below] = at ? buckets[at - 1] : [0, 0];
    return bound === Infinity ? low : low + ((bound - low) * (wanted - below)) / (count - below);
  });
}

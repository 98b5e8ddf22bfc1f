// In: `/readyz` and `/v1/models`, asked every few seconds while the page is in view. Out: signals: how the service does.
import { signal, computed } from "./html.js";
import { call, needsKey, ApiError } from "./api.js";

/** What `/readyz` said last; null while the service does not answer. @type {{value: any}} */
export const ready = signal(undefined);
/** @type {{value: any[]}} */
export const models = signal([]);
/** The last few minutes of `ready`, for charts: {at, ready}. @type {{value: {at: number, ready: any}[]}} */
export const history = signal([]);

const MOST_KEPT = 300;
const EVERY_MS = 2000;

/** Whether redis takes questions. One look that it did not answer may be a pause of the machine; two are not. */
export const isRedisUp = signal(true);
export const isUp = (engine) => ready.value?.engines?.[engine] === "up";
/** What is missing, as keys of texts with values: drawn as one banner. */
export const troubles = computed(() => {
  const now = ready.value;
  if (now === undefined) return [];
  if (now === null) return [["trouble.service", {}]];
  const down = Object.entries(now.engines || {}).filter(([, state]) => state !== "up").map(([name]) => name);
  const found = [];
  if (!isRedisUp.value) found.push([isUp("glm") ? "trouble.redis" : "trouble.redis.all", {}]);
  if (down.length === 2) found.push(["trouble.engines", {}]);
  else if (down.length) found.push([`trouble.${down[0]}`, {}]);
  return found;
});
/** Whether the models are the tiny ones that come with the product. */
export const isPocket = computed(() => models.value.some((each) => /pocket/i.test(each.id)));
/** The name under which one engine is asked. */
export const modelOf = (engine) => models.value.find((each) => each.hybrid.engine === engine && !each.hybrid.adapter)?.id;

async function look() {
  const before = ready.value;
  try {
    const response = await fetch("/readyz", { cache: "no-store" });
    ready.value = await response.json();
  } catch {
    ready.value = null;
  }
  const isDown = (said) => said?.redis === false;
  isRedisUp.value = !isDown(ready.value) || (ready.value.redis_state === "away" && !isDown(before));
  history.value = [...history.value.slice(1 - MOST_KEPT), { at: Date.now() / 1000, ready: ready.value }];
}

let loadedFor = null;
/** Ask for the models, once per state of the engines: names are known only while engines are up. */
export async function loadModels() {
  const state = JSON.stringify(ready.value?.engines ?? null);
  if (loadedFor === state && models.value.length) return;
  try {
    models.value = (await call("/v1/models")).data;
    needsKey.value = false;
    loadedFor = state;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
}

/** Whether the key is not taken here; what else is wrong, the page itself shows. */
export async function isRefused() {
  try {
    await call("/v1/models");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return error.status === 401;
  }
  return false;
}

async function watch() {
  if (document.visibilityState === "visible" || ready.value === undefined) {
    await look();
    if (!needsKey.value) await loadModels();
  }
}

/** Begin to ask. */
export function start() {
  void watch();
  setInterval(() => void watch(), EVERY_MS);
  document.addEventListener("visibilitychange", () => void watch());
}

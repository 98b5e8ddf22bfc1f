// In: a path of the public API. Out: its JSON, its stream, or an `ApiError` that can be shown as it is.
import { signal } from "./html.js";
import { language, t } from "./language.js";

const KEY = "glowl.key";
// All that keys are made of, and all that a browser sends in a header: with anything else `fetch` fails.
const sendable = (typed) => /^[ -~]*$/.test(typed) ? typed : "";
/** The key that was typed in; kept until the tab is closed. @type {{value: string}} */
export const key = signal(sendable(sessionStorage.getItem(KEY) || ""));
/** Whether the service wants a key that we do not have. */
export const needsKey = signal(false);

/** Keep a key. @returns {boolean} false for what can be no key */
export function signIn(typed) {
  key.value = sendable(typed.trim());
  if (key.value) sessionStorage.setItem(KEY, key.value);
  else sessionStorage.removeItem(KEY);
  return key.value !== "";
}

export class ApiError extends Error {
  /** @param {number} status 0 if nothing answered @param {any} error of the envelope */
  constructor(status, error, retryAfterS = null) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.param = error.param;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * Send a request.
 * @param {string} path
 * @param {{method?: string, body?: any, signal?: AbortSignal, headers?: Record<string, string>, raw?: boolean}} [options] of what is sent;
 *   a body that is no form is sent as JSON
 * @returns {Promise<Response>}
 */
export async function send(path, { method, body, signal, headers = {} } = {}) {
  const isForm = body instanceof FormData;
  const all = { "accept-language": language.value, ...headers };
  if (key.value) all.authorization = `Bearer ${key.value}`;
  if (body !== undefined && !isForm) all["content-type"] = "application/json";
  const verb = method || (body === undefined ? "GET" : "POST");
  let response;
  try {
    response = await fetch(path, {
      // With `no-store` a browser sends Cache-Control: no-cache, by which a question would get no answer of the cache.
      method: verb, signal, headers: all, cache: verb === "GET" ? "no-store" : "default", credentials: "same-origin",
      body: body === undefined || isForm ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { message: t("error.unreachable"), code: "unreachable" });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  if (response.status === 401) needsKey.value = true;
  const wait = Number(response.headers.get("retry-after")) || null;
  throw new ApiError(response.status, said?.error || { message: t("error.status", { status: response.status }) }, wait);
}

/** Send a request and read its JSON. @returns {Promise<any>} */
export const call = async (path, options) => (await send(path, options)).json();

/** Write a query. */
export const query = (fields) => {
  const kept = Object.entries(fields).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
};

/**
 * Read server-sent events until the stream ends.
 * @param {Response} response
 * @param {(event: any) => void} onEvent gets the JSON of each; once per piece of network, not once per event, the page
 *   is drawn: events of one piece come without a pause
 * @param {AbortSignal} [signal] ends the reading early, as if the stream had ended
 */
export async function readEvents(response, onEvent, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  signal?.addEventListener("abort", () => void reader.cancel().catch(() => {}), { once: true });
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (data && data !== "[DONE]") onEvent(JSON.parse(data));
    }
  }
}

/** Wait; ends early, and quietly, when the signal is aborted. */
export const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(undefined); }, { once: true });
});

/** Save something that was made here, or read with a key that a plain link would not send. */
export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

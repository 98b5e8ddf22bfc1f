// In: a key of `texts.js`. Out: the sentence in the language of the page. Every view that calls `t` is drawn anew when
// the language changes, since `language` is a signal.
import { signal, effect } from "./html.js";
import texts from "./texts.js";

/** @type {{value: "en" | "zh"}} */
export const language = signal(document.documentElement.lang === "zh" ? "zh" : "en");
/** @type {{value: "auto" | "light" | "dark"}} */
export const theme = signal(/** @type {any} */ (document.documentElement.dataset.theme || "auto"));

effect(() => { document.documentElement.lang = language.value; });
effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});

/** Remember a choice in this browser. Only the look is kept so, never a key or a question. */
export function choose(name, to) {
  (name === "theme" ? theme : language).value = to;
  try { localStorage.setItem(`glowl.${name}`, to); } catch { /* a browser that keeps nothing */ }
}

/**
 * The sentence of a key.
 * @param {string} key
 * @param {Record<string, unknown>} [values] for its places in braces
 */
export function t(key, values = {}) {
  const pair = texts[key];
  if (!pair) return key;
  return pair[language.value === "zh" ? 1 : 0].replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** The one of two fields that is in the page's language: the API has `text` and `text_zh` side by side. */
export const local = (object, name) => (language.value === "zh" && object[`${name}_zh`]) || object[name];

/** Seconds in words: "40 s". */
export function duration(seconds) {
  if (seconds > 0 && seconds < 0.995) return t("time.ms", { n: Math.max(1, Math.round(1000 * seconds)) });
  if (seconds < 10) return t("time.s", { n: seconds.toFixed(1) });
  if (seconds < 90) return t("time.s", { n: Math.round(seconds) });
  if (seconds < 5400) return t("time.min", { n: Math.round(seconds / 60) });
  return t("time.h", { n: Math.round(seconds / 3600) });
}

/** A moment, as the reader's clock has it; the day only if it is not today. */
export function moment(unixSeconds) {
  const at = new Date(unixSeconds * 1000);
  const day = at.toDateString() === new Date().toDateString() ? {} : { month: "short", day: "numeric" };
  return at.toLocaleString(language.value === "zh" ? "zh-CN" : "en-GB", { ...day, hour: "2-digit", minute: "2-digit" });
}

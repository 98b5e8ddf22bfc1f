// In: draft and final answer. Out: one text with what went and what came, word by word.
import { html, useMemo } from "../core/html.js";
import { language, t } from "../core/language.js";
import { diffArrays } from "../vendor/diff-array.js";

// Longer texts are compared line by line: words would take seconds.
const MOST_WORDS = 6000;
const TIMEOUT_MS = 300;

const words = (text) => (typeof Intl.Segmenter === "function"
  ? [...new Intl.Segmenter(language.peek(), { granularity: "word" }).segment(text)].map((each) => each.segment)
  : text.split(/(\s+)/));

function compare(before, after) {
  const isShort = before.length + after.length < MOST_WORDS * 5;
  const cut = isShort ? words : (text) => text.split(/(?<=\n)/);
  return diffArrays(cut(before), cut(after), { timeout: TIMEOUT_MS }) ?? [{ removed: true, value: [before] }, { added: true, value: [after] }];
}

/** @param {{before: string, after: string}} props */
export function Compare({ before, after }) {
  const parts = useMemo(() => compare(before, after), [before, after]);
  if (before === after) return html`<p class="note">${t("difference.none")}</p>`;
  return html`<p class="difference">${parts.map((part, index) => {
    const text = part.value.join("");
    if (part.added) return html`<ins key=${index}><span class="sr">${t("difference.added")} </span>${text}</ins>`;
    if (part.removed) return html`<del key=${index}><span class="sr">${t("difference.removed")} </span>${text}</del>`;
    return html`<span key=${index}>${text}</span>`;
  })}</p>`;
}

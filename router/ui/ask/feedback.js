// In: a turn whose answer is kept for data sets. Out: two thumbs, and a box for what would have been right.
import { html, useSignal } from "../core/html.js";
import { announce } from "../core/announce.js";
import { call } from "../core/api.js";
import { Icon } from "../core/icons.js";
import { t } from "../core/language.js";

/** @param {{turn: import("./turns.js").Turn}} props */
export function Feedback({ turn }) {
  const rating = useSignal("");
  const isOpen = useSignal(false);
  const text = useSignal("");
  const trouble = useSignal("");
  const name = `f${turn.key}`;

  const give = async (next, correction) => {
    trouble.value = "";
    try {
      await call(`/v1/responses/${turn.id}/feedback`, { body: { rating: next, ...(correction ? { correction } : {}) } });
      rating.value = next;
      isOpen.value = next === "down" && !correction;
      announce(t("feedback.kept"));
    } catch (error) {
      trouble.value = error.message;
    }
  };
  const correct = (event) => {
    event.preventDefault();
    const words = text.value.trim();
    if (words) void give("down", words);
  };
  const thumb = (which) => html`<button type="button" class=${`small quiet ${rating.value === which ? "on" : ""}`} aria-pressed=${rating.value === which}
    onClick=${() => void give(which)}><${Icon} name=${which} />${t(`feedback.${which}`)}</button>`;

  return html`<div class="feedback" role="group" aria-label=${t("feedback")}>
    <div class="row actions">${thumb("up")}${thumb("down")}</div>
    ${isOpen.value && html`<form class="row" onSubmit=${correct}>
      <label for=${name}>${t("feedback.right")}</label>
      <textarea id=${name} rows="2" value=${text.value} onInput=${(event) => { text.value = event.target.value; }}></textarea>
      <button type="submit" class="small primary">${t("feedback.send")}</button>
    </form>`}
    ${trouble.value && html`<p class="error" role="alert">${trouble.value}</p>`}
  </div>`;
}

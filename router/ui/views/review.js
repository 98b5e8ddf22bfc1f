// In: kept answers of which nobody has said what is right. Out: each with its pictures and both models' answers, and
// what somebody says of it. What is said leaves the list.
import { html, signal, useEffect, useRef, useSignal } from "../core/html.js";
import { announce } from "../core/announce.js";
import { ApiError, call, query, send } from "../core/api.js";
import { moment, t } from "../core/language.js";

const AT_A_TIME = 10;

/** @type {{value: any[]}} */
const items = signal([]);
const next = signal("");
const problem = signal("");
const isLoaded = signal(false);

async function load(after = "") {
  try {
    const page = await call(`/v1/review${query({ limit: AT_A_TIME, after })}`);
    items.value = after ? [...items.value, ...page.data] : page.data;
    next.value = page.has_more ? page.last_id : "";
    problem.value = "";
    isLoaded.value = true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error.message;
  }
}

/** Take an answer off the list, and go on with the one behind it. */
function leave(item) {
  const index = items.value.indexOf(item);
  items.value = items.value.filter((each) => each !== item);
  const following = items.value[Math.min(index, items.value.length - 1)];
  setTimeout(() => document.getElementById(following ? `review-${following.id}` : "review")?.focus());
  if (!items.value.length && next.value) void load(next.value);
}

/** @param {{id: string, picture: any, number: number}} props */
function Picture({ id, picture, number }) {
  const url = useSignal("");
  const label = t("picture.n", { n: number });
  useEffect(() => {
    if (!picture.is_kept) return undefined;
    let made = "";
    let isGone = false;
    send(`/v1/review/${id}/pictures/${picture.sha256}`).then((response) => response.blob()).then((blob) => {
      if (!isGone) url.value = made = URL.createObjectURL(blob);
    }, () => {});
    return () => { isGone = true; URL.revokeObjectURL(made); };
  }, [id, picture.sha256]);
  if (!picture.is_kept) return html`<p class="note">${label}: ${t("review.notKept")}</p>`;
  return url.value ? html`<img src=${url.value} alt=${label} />` : html`<p class="note">${label}</p>`;
}

/** @param {{item: any}} props */
function Item({ item }) {
  const text = useSignal("");
  const trouble = useSignal("");
  const isBusy = useSignal(false);
  const name = `right-${item.id}`;
  const say = async (right) => {
    isBusy.value = true;
    try {
      const body = right === item.answer ? { rating: "up" } : { rating: "down", correction: right };
      await call(`/v1/responses/${item.id}/feedback`, { body });
      announce(t("feedback.kept"));
      leave(item);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      trouble.value = error.message;
    } finally {
      isBusy.value = false;
    }
  };
  // Where a model's answer is what the caller got, it is shown once.
  const said = [["review.answer", item.answer, item.model], ["engine.glm", item.answers.glm, ""], ["engine.owl2", item.answers.owl2, ""]]
    .filter(([, words], index) => words && (index === 0 || words !== item.answer));
  return html`<article class="card review" aria-labelledby=${`review-${item.id}`}>
    <h2 id=${`review-${item.id}`} tabindex="-1">${item.question || t("review.noQuestion")}</h2>
    <p class="row">${item.reasons.map((reason) => html`<span key=${reason} class="tag warn">${t(`review.${reason}`)}</span>`)}
      ${typeof item.agreement === "number" && html`<small>${t("badge.agreement")} ${item.agreement.toFixed(2)}</small>`}<small>${moment(item.created_at)}</small></p>
    <div class="shown">${item.pictures.map((picture, index) => html`<${Picture} key=${picture.sha256} id=${item.id} picture=${picture} number=${index + 1} />`)}</div>
    <ul class="said">${said.map(([who, words, model]) => html`<li key=${who}>
      <p><strong>${t(who)}</strong>${model && html` <small>${model}</small>`}</p>
      <p class="words">${words}</p>
      <button type="button" class="small" disabled=${isBusy.value} onClick=${() => void say(words)} aria-label=${t("review.isRight.of", { who: t(who) })}>${t("review.isRight")}</button>
    </li>`)}</ul>
    <form onSubmit=${(event) => { event.preventDefault(); if (text.value.trim()) void say(text.value.trim()); }}>
      <label for=${name}>${t("feedback.right")}</label>
      <textarea id=${name} rows="2" value=${text.value} onInput=${(event) => { text.value = event.target.value; }}></textarea>
      <p class="row actions"><button type="submit" class="small primary" disabled=${isBusy.value || !text.value.trim()}>${t("feedback.send")}</button>
        <button type="button" class="small quiet" onClick=${() => leave(item)}>${t("review.skip")}</button></p>
    </form>
    ${trouble.value && html`<p class="error" role="alert">${trouble.value}</p>`}
  </article>`;
}

export default function Review() {
  const first = useRef(true);
  useEffect(() => { if (first.current) void load(); first.current = false; }, []);
  return html`<div>
    <h1 id="review" tabindex="-1">${t("view.review")}</h1>
    <p>${t("review.how")}</p>
    ${problem.value && html`<p class="error" role="alert">${problem.value}</p>`}
    ${isLoaded.value && !items.value.length && !next.value && html`<p>${t("review.none")}</p><p class="note">${t("review.none.how")}</p>`}
    ${items.value.map((item) => html`<${Item} key=${item.id} item=${item} />`)}
    ${next.value && html`<button type="button" onClick=${() => void load(next.value)}>${t("more")}</button>`}
  </div>`;
}

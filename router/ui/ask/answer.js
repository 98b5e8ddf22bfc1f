// In: a turn. Out: one bubble whose answer grows up: draft, refining, refined. What somebody is reading is not taken
// away: a bar offers what has come meanwhile.
import { html, useEffect, useRef, useSignal, useSignalEffect } from "../core/html.js";
import { announce } from "../core/announce.js";
import { Icon } from "../core/icons.js";
import { duration, t } from "../core/language.js";
import { Badge, Conflicts } from "./badge.js";
import { Compare } from "./compare.js";
import { Feedback } from "./feedback.js";
import { Markdown } from "./markdown.js";
import { Picture } from "./pictures.js";

/** What the state is called, with what is known of the wait. @param {import("./turns.js").Turn} turn */
export function stateOf(turn) {
  const phase = turn.phase.value;
  const hasDraft = turn.draft.value !== "";
  if (phase === "completed") return t(hasDraft ? "state.refined" : "state.answered");
  if (phase === "refining" && turn.final.value) return t("state.refining.writing");
  if (!["queued", "refining"].includes(phase)) return t(`state.${phase}`);
  const place = turn.place.value;
  const state = t(`state.${phase}`);
  if (!place) return state;
  const eta = place.eta_ms === null ? "" : duration(place.eta_ms / 1000);
  if (place.position > 0) return t(eta ? "state.place.eta" : "state.place", { state, n: place.position, eta });
  return eta ? t("state.eta", { state, eta }) : state;
}

/** Whether somebody is busy with the text of a bubble: it must not change under them. */
function isBeingRead(node, touchedAt) {
  const selection = document.getSelection();
  if (selection && !selection.isCollapsed && node.contains(selection.anchorNode)) return true;
  return touchedAt > 0 || node.contains(document.activeElement);
}

const SCROLL_KEYS = ["PageUp", "PageDown", "Home", "End", "ArrowUp", "ArrowDown", " "];

/**
 * Whether a reader scrolls by this. The scroll event itself does not tell: the page scrolls too, and its event may come
 * long after.
 * @param {Event} event a wheel, a finger, a key, or a press, which counts on a scroll bar only
 */
function scrollsByHand(event) {
  const target = /** @type {any} */ (event.target);
  if (event instanceof KeyboardEvent) return SCROLL_KEYS.includes(event.key) && !target.closest?.("input, textarea, select, button, summary, [role=tab]");
  return event.type !== "pointerdown" || event.offsetX >= target.clientWidth && target.scrollHeight > target.clientHeight;
}

const TABS = ["final", "draft", "difference", "both"];

function Tabs({ tab, onPick, name }) {
  const onKey = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length];
    onPick(next);
    event.currentTarget.querySelector(`[data-tab="${next}"]`).focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${t("answer.views")} onKeyDown=${onKey}>
    ${TABS.map((each) => html`<button type="button" role="tab" key=${each} id=${`${name}-${each}`} data-tab=${each} aria-controls=${`${name}-panel`} aria-selected=${tab === each}
      tabindex=${tab === each ? 0 : -1} onClick=${() => onPick(each)}>${t(`answer.tab.${each}`)}</button>`)}
  </div>`;
}

/** JSON with line breaks; what is no JSON yet, as it is. */
function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

function Text({ turn, tab }) {
  const isOpen = !turn.isOver.value;
  if (tab === "draft") return html`<${Markdown} key="draft" text=${turn.draft.value} isOpen=${isOpen && turn.phase.value === "draft"} />`;
  const format = turn.response.value?.text?.format?.type;
  if (tab === "final" && format && format !== "text") return html`<pre key="json" tabindex="0"><code>${pretty(turn.final.value)}</code></pre>`;
  if (tab === "final") return html`<${Markdown} key="final" text=${turn.final.value} isOpen=${isOpen} />`;
  if (tab === "difference") return html`<${Compare} key="difference" before=${turn.draft.value} after=${turn.final.value} />`;
  return html`<div class="sides" key="both">
    <section><h3>${t("answer.tab.draft")}</h3><${Markdown} text=${turn.draft.value} isOpen=${false} /></section>
    <section><h3>${t("answer.tab.final")}</h3><${Markdown} text=${turn.final.value} isOpen=${isOpen} /></section>
  </div>`;
}

function Failure({ turn }) {
  const phase = turn.phase.value;
  if (phase === "cancelled") return html`<p class="note">${t("answer.cancelled")}</p>`;
  const error = turn.error.value;
  if (phase === "refused" && error?.code === "cut") return html`<p class="error" role="alert">${t("answer.cut")}</p>`;
  if ((phase === "refused" || phase === "failed") && error) {
    const wait = error.retryAfterS ? ` ${t("answer.retryAfter", { eta: duration(error.retryAfterS) })}` : "";
    return html`<p class="error" role="alert">${error.message}${wait}</p>`;
  }
  if (phase === "incomplete") {
    const reason = turn.response.value?.incomplete_details?.reason;
    return html`<p class="note">${t(reason === "content_filter" ? "answer.filtered" : "answer.cutShort")}</p>`;
  }
  return null;
}

/**
 * @param {{turn: import("./turns.js").Turn, number: number, firstPicture: number, isLast: boolean, onAgain: (turn: any, how: any) => void}} props
 *   of which `firstPicture`: how many pictures the conversation had before this turn
 */
export function Exchange({ turn, number, firstPicture, isLast, onAgain }) {
  const chosen = useSignal(""); // by the reader; empty follows the answer
  const isHeld = useSignal(false);
  const touchedAt = useRef(0);
  const node = useRef(null);
  const hadFinal = useRef(turn.final.value !== "" || turn.isOver.value);
  const said = useRef("");
  const wasStopped = useRef(false);

  // The first word of the refined answer: shown in place of the draft only to those who are not busy with it.
  useSignalEffect(() => {
    const hasBoth = turn.final.value !== "" && turn.draft.value !== "";
    if (!hasBoth || hadFinal.current) return;
    hadFinal.current = true;
    if (node.current && isBeingRead(node.current, touchedAt.current)) isHeld.value = true;
  });
  // One announcement per state, not per word.
  useSignalEffect(() => {
    const phase = turn.phase.value;
    const key = `${phase}${phase === "refining" && turn.final.value !== ""}`;
    if (said.current && said.current !== key) announce(t("answer.announce", { n: number, state: stateOf(turn) }));
    said.current = key;
  });
  useEffect(() => {
    const touch = () => { if (!turn.final.value && turn.draft.value) touchedAt.current = Date.now(); };
    const bubble = node.current;
    const kinds = ["wheel", "touchmove", "pointerdown", "keydown"];
    for (const kind of kinds) bubble.addEventListener(kind, touch, { passive: true });
    const byHand = (event) => { if (scrollsByHand(event)) touch(); };
    const hands = ["wheel", "touchmove", "pointerdown", "keydown"];
    for (const kind of hands) document.addEventListener(kind, byHand, { passive: true });
    return () => { for (const kind of hands) document.removeEventListener(kind, byHand); };
  }, []);

  const hasDraft = turn.draft.value !== "";
  const hasFinal = turn.final.value !== "";
  const hasBoth = hasDraft && hasFinal;
  const tab = chosen.value || (!hasFinal || isHeld.value ? (hasDraft ? "draft" : "final") : "final");
  const response = turn.response.value;
  const ofDraft = hasFinal && ["draft", "both"].includes(tab);
  const boxes = ((ofDraft ? response?.hybrid?.draft?.boxes : response?.hybrid?.boxes) ?? []).map((box) => ({ ...box, image: box.image - firstPicture }));
  const name = `t${turn.key}`;
  const show = (next) => { chosen.value = next; isHeld.value = false; };
  const engine = response?.hybrid?.engine;
  const isBusy = !turn.isOver.value;
  // The button that stopped it is gone, and the focus with it.
  useEffect(() => { if (!isBusy && wasStopped.current) node.current.querySelector(".actions button")?.focus(); }, [isBusy]);
  return html`<article class="exchange" aria-labelledby=${`${name}-q`} data-phase=${turn.phase.value} data-id=${turn.id}>
    <div class="question">
      <h2 class="sr" id=${`${name}-q`}>${t("question.n", { n: number })}</h2>
      ${turn.pictures.length > 0 && html`<div class="pictures">
        ${turn.pictures.map((picture, index) => html`<${Picture} key=${index} picture=${picture} number=${index + 1} boxes=${boxes.filter((box) => box.image === index)} />`)}
      </div>`}
      <p class="asked">${turn.text}</p>
    </div>
    <div class="answer" ref=${node} aria-busy=${isBusy}>
      <p class=${`state ${turn.phase.value}`}><span class="dot" aria-hidden="true"></span><span class="name">${stateOf(turn)}</span>${turn.isReconnecting.value && html` <em>${t("answer.reconnecting")}</em>`}</p>
      ${hasBoth && html`<${Tabs} tab=${tab} onPick=${show} name=${name} />`}
      ${isHeld.value && tab === "draft" && html`<p class="offer"><span>${t("answer.offer")}</span> <button type="button" class="small primary" onClick=${() => show("final")}>${t("answer.offer.show")}</button></p>`}
      <div class="text" id=${`${name}-panel`} role=${hasBoth ? "tabpanel" : undefined} aria-labelledby=${hasBoth ? `${name}-${tab}` : undefined}>
        <${Text} turn=${turn} tab=${tab} />
        ${turn.calls.value.map((each, index) => html`<section class="call" key=${index}><p class="note">${t("answer.calls", { name: each.name })}</p><pre tabindex="0"><code>${pretty(each.arguments)}</code></pre></section>`)}
        ${isBusy && !hasDraft && !hasFinal && html`<p class="waiting" aria-hidden="true"><i></i><i></i><i></i></p>`}
      </div>
      <${Failure} turn=${turn} />
      ${response && html`<${Conflicts} response=${response} /><${Badge} response=${response} isOver=${turn.isOver.value} />`}
      <div class="row actions">
        ${isBusy && html`<button type="button" onClick=${() => { wasStopped.current = true; void turn.cancel(); }}><${Icon} name="stop" />${t("answer.stop")}</button>`}
        ${!isBusy && html`<button type="button" class="small quiet" onClick=${() => onAgain(turn, {})}><${Icon} name="again" />${t("answer.again")}</button>`}
        ${!isBusy && engine && isLast && html`<button type="button" class="small quiet" onClick=${() => onAgain(turn, { engine: engine === "glm" ? "owl2" : "glm" })}><${Icon} name="other" />${t(engine === "glm" ? "answer.askOwl2" : "answer.askGlm")}</button>`}
        ${hasFinal && html`<button type="button" class="small quiet" onClick=${() => navigator.clipboard?.writeText(turn.final.value).then(() => announce(t("copied")))}><${Icon} name="copy" />${t("copy")}</button>`}
      </div>
      ${!isBusy && hasFinal && response?.hybrid?.captured && html`<${Feedback} turn=${turn} />`}
    </div>
  </article>`;
}

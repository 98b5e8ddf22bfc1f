// In: a conversation's id, or none. Out: the view in which one asks and watches answers grow up.
import { effect, html, signal, useEffect, useRef, useSignal } from "../core/html.js";
import { ApiError } from "../core/api.js";
import { language, t } from "../core/language.js";
import { isPocket, isRedisUp, modelOf } from "../core/service.js";
import { Exchange } from "../ask/answer.js";
import { add, Composer, text as written } from "../ask/composer.js";
import { conversations, History, load, turnsOf } from "../ask/history.js";
import { sampleFile } from "../ask/pictures.js";
import { newConversation, Turn } from "../ask/turns.js";

// So many turns are drawn; earlier ones when they are asked for.
const SHOWN = 20;
const MOST_SAMPLES = 6;

/** The conversation that is open. */
const open = { id: "", title: "" };
/** @type {{value: Turn[]}} oldest first */
const turns = signal([]);
const earlier = signal({ hasMore: false, after: "" });
const problem = signal("");
/** @type {{value: any[]}} */
const samples = signal([]);

async function openConversation(id) {
  for (const turn of turns.value) turn.leave();
  open.id = id;
  open.title = "";
  turns.value = [];
  earlier.value = { hasMore: false, after: "" };
  problem.value = "";
  if (id) await loadTurns();
}

/** Read the newest turns, or the ones before those that are shown. */
async function loadTurns({ isEarlier = false } = {}) {
  const { id } = open;
  try {
    const page = await turnsOf(id, { limit: SHOWN, after: isEarlier ? earlier.value.after : "" });
    if (open.id !== id) return;
    const known = new Set(turns.value.map((turn) => turn.id));
    const found = page.data.filter((each) => !known.has(each.id)).reverse().map((each) => Turn.of(each));
    turns.value = isEarlier ? [...found, ...turns.value] : [...turns.value, ...found];
    open.title = page.data[0]?.metadata?.title || open.title;
    if (isEarlier || !known.size) earlier.value = { hasMore: page.has_more, after: page.last_id ?? "" };
    if (!turns.value.length) problem.value = t("ask.noConversation");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error.message;
  }
}

async function ask(question, { before = turns.value, isFresh = false } = {}) {
  if (!open.id) {
    open.id = newConversation();
    window.history.replaceState(null, "", `#/ask/${open.id}`);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  }
  const turn = new Turn(question.text, question.pictures);
  turns.value = [...turns.value, turn];
  const how = { model: question.model, route: question.route, template: question.template, isFresh };
  const ending = turn.ask({ ...how, conversation: open.id, title: open.title, previous: before });
  // The history has it as soon as it has an id.
  const stop = effect(() => { if (turn.response.value) setTimeout(() => { stop(); void load(); }); });
  await ending;
  void load();
}

/** Ask the same again, or let the other engine answer it. */
function again(turn, { engine }) {
  const before = turns.value.slice(0, turns.value.indexOf(turn));
  const question = { text: turn.text, pictures: turn.pictures.map((each) => ({ ...each })), ...(turn.asked ?? { model: "glowl" }) };
  void ask(engine ? { ...question, model: modelOf(engine) ?? "glowl", route: "" } : question, { before, isFresh: true });
}

function Samples() {
  useEffect(() => {
    if (samples.value.length) return;
    fetch(new URL("../samples/samples.json", import.meta.url)).then((response) => response.json()).then((all) => { samples.value = all; }, () => {});
  }, []);
  const use = async (sample) => {
    add(await Promise.all(sample.pictures.map(sampleFile)));
    written.value = sample.question;
    document.getElementById("question")?.focus();
  };
  const mine = [...samples.value].sort((a, b) => Number(b.lang === language.value) - Number(a.lang === language.value));
  return html`<section class="welcome">
    <h2>${t("ask.welcome")}</h2>
    <p>${t("ask.welcome.how")}</p>
    ${isPocket.value && html`<p class="knows">${t("ask.pocket")}</p>`}
    <h3 id="samples">${t("ask.samples")}</h3>
    <ul class="samples" aria-labelledby="samples">${mine.slice(0, MOST_SAMPLES).map((sample) => html`<li key=${sample.name}><button type="button" onClick=${() => use(sample)}>
      ${sample.pictures.map((name) => html`<img src=${new URL(`../samples/${name}`, import.meta.url).href} alt="" loading="lazy" />`)}<span lang=${sample.lang}>${sample.question}</span></button></li>`)}</ul>
  </section>`;
}

/** @param {{path: string[]}} props */
export default function Ask({ path }) {
  const id = path[0] ?? "";
  const end = useRef(null);
  const isFollowing = useRef(true);
  const isDropping = useSignal(false);
  useEffect(() => { if (id !== open.id) void openConversation(id); }, [id]);
  useEffect(() => { if (isRedisUp.value) void load(); }, [isRedisUp.value]);
  useEffect(() => {
    const back = () => {
      if (document.visibilityState !== "visible") return;
      void load();
      if (open.id && turns.value.every((turn) => turn.isOver.value)) void loadTurns(); // asked in another tab meanwhile
    };
    document.addEventListener("visibilitychange", back);
    return () => document.removeEventListener("visibilitychange", back);
  }, []);
  // The end stays in view while the reader is there.
  useEffect(() => {
    const thread = end.current?.parentElement;
    if (!thread) return undefined;
    const onScroll = () => { isFollowing.current = thread.scrollHeight - thread.scrollTop - thread.clientHeight < 60; };
    const observer = new ResizeObserver(() => {
      if (!isFollowing.current || !turns.value.length) return; // what greets is read from its top
      thread.scrollTop = thread.scrollHeight;
    });
    observer.observe(end.current.previousElementSibling ?? thread);
    thread.addEventListener("scroll", onScroll, { passive: true });
    return () => { observer.disconnect(); thread.removeEventListener("scroll", onScroll); };
  }, []);
  useEffect(() => { isFollowing.current = true; }, [turns.value.length]);
  const drop = (event) => {
    isDropping.value = false;
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  };
  let seen = 0;
  const isWhole = !earlier.value.hasMore;
  const list = turns.value.map((turn, index) => {
    const first = seen;
    seen += turn.pictures.length;
    return html`<${Exchange} key=${turn.key} turn=${turn} number=${index + 1} firstPicture=${isWhole ? first : 0} isLast=${index === turns.value.length - 1} onAgain=${again} />`;
  });
  const title = conversations.value.find((each) => each.id === id)?.title;
  return html`<div class=${`ask${isDropping.value ? " dropping" : ""}`} onDragOver=${(event) => { event.preventDefault(); isDropping.value = event.dataTransfer?.types.includes("Files") ?? false; }}
      onDragLeave=${() => { isDropping.value = false; }} onDrop=${drop}>
    <details class="side" open=${window.matchMedia("(min-width: 60rem)").matches || undefined}><summary>${t("history")}</summary><${History} openId=${id} /></details>
    <div class="conversation">
      <h1 class="sr">${title || t("view.ask")}</h1>
      <div class="thread" tabindex="0" role="group" aria-label=${t("ask.thread")}>
        <div class="inner">
          ${problem.value && html`<p class="error" role="alert">${problem.value}</p>`}
          ${!isWhole && html`<button type="button" onClick=${() => loadTurns({ isEarlier: true })}>${t("ask.earlier")}</button>`}
          ${list}
          ${!list.length && !id && html`<${Samples} />`}
        </div>
        <div ref=${end}></div>
      </div>
      <${Composer} onAsk=${(question) => void ask(question)} />
    </div>
  </div>`;
}

// In: the stored responses of whoever is signed in. Out: their conversations: found, opened, renamed, saved, deleted.
import { html, signal, useSignal } from "../core/html.js";
import { announce } from "../core/announce.js";
import { ApiError, call, download, query } from "../core/api.js";
import { Icon } from "../core/icons.js";
import { moment, t } from "../core/language.js";

const PAGE = 60;
const AT_A_TIME = 4;

/** @typedef {{id: string, title: string, at: number, status: string, numTurns: number, newest: any}} Conversation */
/** @type {{value: Conversation[]}} newest first */
export const conversations = signal([]);
const search = signal("");
const hasMore = signal(false);
const problem = signal("");
let after = "";
let asked = 0;

export const conversationOf = (job) => job.metadata?.conversation || job.id;

/** A page of the newest turns, short; a key that may ask but not list jobs reads its responses instead. */
async function listed(fields) {
  try {
    return await call(`/v1/jobs${query(fields)}`);
  } catch (error) {
    if (error.status !== 403) throw error;
  }
  const page = await call(`/v1/responses${query(fields)}`);
  const text = (each) => (each.input[0]?.content ?? []).map((part) => part.text ?? "").join("");
  return { ...page, data: page.data.map((each) => ({ ...each, question: text(each).slice(0, 120) })) };
}

/** Read the list, from its beginning or on. */
export async function load({ isMore = false } = {}) {
  const number = (asked += 1);
  try {
    const page = await listed({ limit: PAGE, q: search.value.trim(), after: isMore ? after : "" });
    if (number !== asked) return; // somebody typed on meanwhile
    const found = new Map(isMore ? conversations.value.map((each) => [each.id, { ...each }]) : []);
    for (const job of page.data) {
      const id = conversationOf(job);
      const known = found.get(id);
      if (known) {
        known.numTurns += 1;
        known.title = known.newest.metadata?.title || job.question || known.title;
      } else {
        const title = job.metadata?.title || job.question;
        found.set(id, { id, title, at: job.created_at, status: job.status, numTurns: 1, newest: job });
      }
    }
    conversations.value = [...found.values()];
    after = page.last_id ?? "";
    hasMore.value = page.has_more;
    problem.value = "";
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error.message;
  }
}

/** Read the turns of a conversation, newest first, a page of whole responses at a time. */
export async function turnsOf(conversation, { limit = 20, after: from = "" } = {}) {
  if (conversation.startsWith("conv_")) return call(`/v1/responses${query({ limit, after: from, "metadata[conversation]": conversation })}`);
  const [response, items] = await Promise.all([call(`/v1/responses/${conversation}`), call(`/v1/responses/${conversation}/input_items?limit=1`)]);
  return { data: [{ ...response, input: items.data }], has_more: false, last_id: conversation };
}

/** All turns of a conversation, oldest first. */
async function allTurns(conversation) {
  const found = [];
  for (let from = ""; ;) {
    const page = await turnsOf(conversation, { limit: 100, after: from });
    found.push(...page.data);
    if (!page.has_more) return found.reverse();
    from = page.last_id;
  }
}

async function rename(conversation, title) {
  const { newest } = conversation;
  await call(`/v1/responses/${newest.id}`, { body: { metadata: { ...newest.metadata, title } } });
  await load();
}

async function remove(conversation) {
  const turns = await allTurns(conversation.id);
  for (let at = 0; at < turns.length; at += AT_A_TIME) {
    await Promise.all(turns.slice(at, at + AT_A_TIME).map((turn) => call(`/v1/responses/${turn.id}`, { method: "DELETE" })));
  }
  announce(t("history.deleted", { title: conversation.title }));
  if (location.hash.includes(conversation.id)) location.hash = "#/ask";
  await load();
  document.querySelector(".history .primary")?.focus();
}

async function save(conversation, kind) {
  const turns = await allTurns(conversation.id);
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "conversation";
  if (kind === "json") {
    download(`${name}.json`, new Blob([JSON.stringify(turns, null, 1)], { type: "application/json" }));
    return;
  }
  const called = (item) => item.type === "function_call" ? [{ text: `${item.name}(${item.arguments})` }] : [];
  const text = (items) => (items ?? []).flatMap((item) => item.content ?? item.output ?? called(item)).map((part) => part.text ?? `[${t("picture")}: ${part.file_id}]`).join("\n");
  const parts = turns.map((turn) => `## ${text(turn.input)}\n\n${text(turn.output)}\n\n*${turn.model}, ${turn.hybrid.route}, ${turn.hybrid.rule}*\n`);
  download(`${name}.md`, new Blob([`# ${conversation.title}\n\n${parts.join("\n")}`], { type: "text/markdown" }));
}

function Entry({ conversation, isOpen }) {
  const mode = useSignal("");
  const title = useSignal("");
  const guard = async (work) => {
    try { await work(); } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      problem.value = error.message;
    }
    mode.value = "";
  };
  const isRunning = ["queued", "in_progress"].includes(conversation.status);
  if (mode.value === "rename") {
    return html`<li><form class="row" onSubmit=${(event) => { event.preventDefault(); void guard(() => rename(conversation, title.value.trim())); }}>
      <label class="sr" for="title">${t("history.title")}</label>
      <input id="title" value=${title.value} maxlength="200" onInput=${(event) => { title.value = event.target.value; }} onKeyDown=${(event) => { if (event.key === "Escape") mode.value = ""; }} ref=${(node) => node?.focus()} />
      <button class="small primary">${t("save")}</button>
    </form></li>`;
  }
  return html`<li class=${isOpen ? "open" : ""}>
    <a href=${`#/ask/${conversation.id}`} aria-current=${isOpen ? "page" : undefined}>
      <span class="title">${conversation.title || t("history.untitled")}</span>
      <small>${isRunning ? html`<span class="dot running" aria-hidden="true"></span>${t("history.running")}` : moment(conversation.at)}${conversation.numTurns > 1 ? ` · ${t("history.turns", { n: conversation.numTurns })}` : ""}</small>
    </a>
    <details class="menu" open=${mode.value === "delete" || undefined}>
      <summary aria-label=${t("history.more", { title: conversation.title })}>⋯</summary>
      <div class="menu-items">
        ${mode.value === "delete"
          ? html`<p>${t("history.delete.sure")}</p><button type="button" class="danger" onClick=${() => guard(() => remove(conversation))}>${t("history.delete.yes")}</button><button type="button" onClick=${() => { mode.value = ""; }}>${t("no")}</button>`
          : html`<button type="button" onClick=${() => { title.value = conversation.title; mode.value = "rename"; }}>${t("history.rename")}</button>
            <button type="button" onClick=${() => guard(() => save(conversation, "markdown"))}>${t("history.save.markdown")}</button>
            <button type="button" onClick=${() => guard(() => save(conversation, "json"))}>${t("history.save.json")}</button>
            <button type="button" class="danger" onClick=${() => { mode.value = "delete"; }}>${t("history.delete")}</button>`}
      </div>
    </details>
  </li>`;
}

let typing = 0;

/** @param {{openId: string}} props */
export function History({ openId }) {
  const onInput = (event) => {
    search.value = event.target.value;
    clearTimeout(typing);
    typing = setTimeout(() => void load(), 250);
  };
  return html`<nav class="history" aria-label=${t("history")}>
    <div class="row"><a class="button primary" href="#/ask"><${Icon} name="plus" />${t("history.new")}</a></div>
    <label class="sr" for="search">${t("history.search")}</label>
    <input id="search" type="search" placeholder=${t("history.search")} value=${search.value} onInput=${onInput} />
    ${problem.value && html`<p class="error" role="alert">${problem.value}</p>`}
    <ul>${conversations.value.map((each) => html`<${Entry} key=${each.id} conversation=${each} isOpen=${each.id === openId} />`)}</ul>
    ${!conversations.value.length && !problem.value && html`<p class="note">${t(search.value ? "history.none" : "history.empty")}</p>`}
    ${hasMore.value && html`<button type="button" onClick=${() => load({ isMore: true })}>${t("more")}</button>`}
  </nav>`;
}

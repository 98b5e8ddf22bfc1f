// In: a question, some pictures, a dial; or many questions. Out: where the policy sends them, why, and what would change it.
import { html, signal, useEffect, useSignal } from "../core/html.js";
import { ApiError, call } from "../core/api.js";
import { language, local, t } from "../core/language.js";
import { Mix } from "../core/mix.js";

const AT_A_TIME = 4;
const MOST = 500;
const DELAY_MS = 200;

const question = signal("");
const numPictures = signal(0);
/** Empty leaves the dial to the preset. */
const dial = signal("");
/** @type {{value: any[]}} */
const presets = signal([]);
/** Decisions by preset. @type {{value: Record<string, any>}} */
const decisions = signal({});
const problem = signal("");
let asked = 0;

/** Pictures that differ, as small as can be: the policy counts them and does not look at them. */
function drawn(number) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  const context = canvas.getContext("2d");
  context.fillStyle = `hsl(${(number * 47) % 360} 60% ${40 + number}%)`;
  context.fillRect(0, 0, 32, 32);
  return canvas.toDataURL("image/png");
}

const content = (text, count) => [
  ...Array.from({ length: count }, (_, index) => ({ type: "image_url", image_url: { url: drawn(index) } })),
  { type: "text", text },
];

const route = (body, preset) => call("/v1/route", { body: { ...body, ...(preset ? { preset } : {}), ...(dial.value === "" ? {} : { hybrid: { dial: Number(dial.value) } }) } });

async function decide() {
  const number = (asked += 1);
  if (!question.value.trim() && !numPictures.value) { decisions.value = {}; return; }
  const messages = [{ role: "user", content: content(question.value, numPictures.value) }];
  try {
    if (!presets.value.length) presets.value = (await call("/v1/presets")).data;
    const names = ["", ...presets.value.filter((each) => !each.is_active).map((each) => each.id)];
    const found = await Promise.all(names.map((preset) => route({ messages }, preset)));
    if (number !== asked) return;
    decisions.value = Object.fromEntries(found.map((each, index) => [names[index], each]));
    problem.value = "";
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error.message;
  }
}

const plain = (value) => (Array.isArray(value) ? value.join(", ") : value === null ? "–" : typeof value === "number" ? String(Math.round(value * 100) / 100) : String(value));

function Decision({ found }) {
  const flip = found.flip;
  return html`<section class="decision" aria-live="polite">
    <p class="big"><span class=${`tag ${found.route}`}>${t(`route.${found.route}`)}</span> ${t(`engine.${found.engine}`)} <small>${t("lab.rule")} <code>${found.rule}</code>, ${t("lab.preset")} <code>${found.preset}</code></small></p>
    <ul>${found.reasons.map((reason) => html`<li>${local(reason, "text")}</li>`)}</ul>
    ${flip && html`<p class="flip">${t("lab.flip")} ${local(flip, "text")}</p>`}
    ${found.multi_hop_threshold !== null && html`<p><label>${t("lab.multiHop")} <meter min="0" max="1" value=${found.features.multi_hop} high=${found.multi_hop_threshold}>${found.features.multi_hop}</meter></label> ${plain(found.features.multi_hop)} / ${plain(found.multi_hop_threshold)}</p>`}
    <details><summary>${t("lab.features")}</summary><table><thead><tr><th scope="col">${t("lab.feature")}</th><th scope="col">${t("lab.value")}</th></tr></thead><tbody>${Object.entries(found.features).map(([name, value]) => html`<tr><th scope="row"><code>${name}</code></th><td>${plain(value)}</td></tr>`)}</tbody></table></details>
  </section>`;
}

function SideBySide() {
  const rows = Object.entries(decisions.value);
  if (rows.length < 2) return null;
  return html`<h2>${t("lab.presets")}</h2><div class="scroll-x" tabindex="0" role="group" aria-label=${t("lab.presets")}><table class="wide">
    <thead><tr>${["preset", "route", "engine", "rule", "margin"].map((each) => html`<th scope="col">${t(`lab.${each}`)}</th>`)}</tr></thead>
    <tbody>${rows.map(([preset, found]) => html`<tr key=${preset}><th scope="row"><code>${found.preset}</code>${preset === "" ? ` ${t("lab.active")}` : ""}</th><td><span class=${`tag ${found.route}`}>${t(`route.${found.route}`)}</span></td><td>${t(`engine.${found.engine}`)}</td><td><code>${found.rule}</code></td><td>${plain(found.margin)}</td></tr>`)}</tbody>
  </table></div>`;
}

const pasted = signal("");
const chosen = signal("");
/** @type {{value: {text: string, before: any, after: any}[]}} */
const rows = signal([]);
const progress = signal(null);

async function decideAll(bodies) {
  rows.value = [];
  problem.value = "";
  const found = Array(bodies.length);
  let next = 0;
  progress.value = { n: 0, all: bodies.length };
  const work = async () => {
    while (next < bodies.length) {
      const index = next;
      next += 1;
      const { text, body, was } = bodies[index];
      const [before, after] = await Promise.all([was ?? call("/v1/route", { body }), route(body, chosen.value)]);
      found[index] = { text, before, after };
      progress.value = { n: progress.value.n + 1, all: bodies.length };
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_A_TIME }, work));
    rows.value = found;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error.message;
  }
  progress.value = null;
}

const decidePasted = () => decideAll(pasted.value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, MOST)
  .map((text) => ({ text, body: { messages: [{ role: "user", content: text }] } })));

async function decideMine() {
  try {
    const page = await call("/v1/jobs?limit=100");
    // What happened then against what the chosen rules say now.
    await decideAll(page.data.map((job) => ({ text: job.question, body: { response_id: job.id }, was: { route: job.route, engine: job.engines.at(-1), rule: "" } })));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error.message;
  }
}

function Many() {
  const all = rows.value;
  const changed = all.filter((row) => row.before.route !== row.after.route || row.before.engine !== row.after.engine);
  const parts = (which) => ["fast", "deep"].map((name) => ({ label: t(`route.${name}`), n: all.filter((row) => row[which].route === name).length }));
  const isBusy = progress.value !== null;
  return html`<h2>${t("lab.many")}</h2>
    <p><label for="many">${t("lab.many.how", { most: MOST })}</label><textarea id="many" rows="4" value=${pasted.value} onInput=${(event) => { pasted.value = event.target.value; }}></textarea></p>
    <div class="row"><label>${t("lab.with")} <select value=${chosen.value} onChange=${(event) => { chosen.value = event.target.value; }}><option value="">${t("lab.active.long")}</option>${presets.value.map((each) => html`<option value=${each.id}>${each.id}</option>`)}</select></label>
      <button type="button" class="primary" disabled=${isBusy || !pasted.value.trim()} onClick=${() => void decidePasted()}>${t("lab.decide")}</button>
      <button type="button" disabled=${isBusy} onClick=${() => void decideMine()}>${t("lab.mine")}</button></div>
    ${isBusy && html`<p><progress max=${progress.value.all} value=${progress.value.n} aria-label=${t("lab.progress")}></progress></p>`}
    ${all.length > 0 && html`<${Mix} label=${t("lab.before")} parts=${parts("before")} /><${Mix} label=${t("lab.after")} parts=${parts("after")} />
      <p role="status">${t("lab.changed", { n: changed.length, all: all.length })}</p>
      <div class="scroll-x" tabindex="0" role="group" aria-label=${t("lab.many")}><table class="wide"><thead><tr><th scope="col">${t("jobs.question")}</th><th scope="col">${t("lab.before")}</th><th scope="col">${t("lab.after")}</th><th scope="col">${t("lab.rule")}</th></tr></thead>
      <tbody>${all.map((row, index) => html`<tr key=${index} class=${changed.includes(row) ? "changed" : ""}><th scope="row">${row.text}</th><td>${t(`route.${row.before.route}`)}</td><td>${changed.includes(row) ? "→ " : ""}${t(`route.${row.after.route}`)} (${row.after.engine})</td><td><code>${row.after.rule}</code></td></tr>`)}</tbody></table></div>`}`;
}

export default function Lab() {
  const isFirst = useSignal(true);
  useEffect(() => {
    const timer = setTimeout(() => void decide(), isFirst.value ? 0 : DELAY_MS);
    isFirst.value = false;
    return () => clearTimeout(timer);
  }, [question.value, numPictures.value, dial.value, language.value]);
  useEffect(() => { if (!presets.value.length) call("/v1/presets").then((found) => { presets.value = found.data; }, () => {}); }, []);
  const found = decisions.value[""];
  return html`<h1>${t("view.lab")}</h1><p>${t("lab.why")}</p>
    <form class="lab" onSubmit=${(event) => event.preventDefault()}>
      <label for="lab-question">${t("ask.question")}</label>
      <textarea id="lab-question" rows="3" value=${question.value} onInput=${(event) => { question.value = event.target.value; }}></textarea>
      <div class="row">
        <label>${t("lab.pictures")} <input type="number" min="0" max="16" value=${numPictures.value} onInput=${(event) => { numPictures.value = Math.min(16, Math.max(0, Number(event.target.value) || 0)); }} /></label>
        <label>${t("lab.dial")} <input type="range" min="0" max="1" step="0.05" value=${dial.value === "" ? 0.5 : dial.value} aria-valuetext=${dial.value === "" ? t("lab.dial.preset") : dial.value} onInput=${(event) => { dial.value = event.target.value; }} /></label>
        <output>${dial.value === "" ? t("lab.dial.preset") : dial.value}</output>
        ${dial.value !== "" && html`<button type="button" class="small" onClick=${() => { dial.value = ""; }}>${t("lab.dial.reset")}</button>`}
      </div>
    </form>
    ${problem.value && html`<p class="error" role="alert">${problem.value}</p>`}
    ${found ? html`<${Decision} found=${found} />` : html`<p class="note">${t("lab.empty")}</p>`}
    <${SideBySide} /><${Many} />`;
}

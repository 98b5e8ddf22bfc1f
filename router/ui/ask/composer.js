// In: words and pictures. Out: a question, once every picture is up.
import { html, signal, useEffect, useRef, useSignal } from "../core/html.js";
import { t } from "../core/language.js";
import { announce } from "../core/announce.js";
import { call } from "../core/api.js";
import { modelOf, models } from "../core/service.js";
import { Upload } from "./pictures.js";

/** What is being written; kept while another view is shown. */
export const text = signal("");
/** @type {{value: Upload[]}} */
export const uploads = signal([]);
/** Who is to answer: empty leaves it to the policy. */
const who = signal("");
const template = signal("");
/** @type {{value: any[]}} */
const templates = signal([]);

/** Take files from anywhere. @param {Iterable<File>} files */
export function add(files) {
  uploads.value = [...uploads.value, ...[...files].map((file) => new Upload(file))];
}

function move(index, by) {
  const to = index + by;
  if (to < 0 || to >= uploads.value.length) return false;
  const next = [...uploads.value];
  next.splice(to, 0, ...next.splice(index, 1));
  uploads.value = next;
  announce(t("picture.moved", { name: next[to].name, n: to + 1 }));
  return true;
}

function remove(index) {
  const [gone] = uploads.value.splice(index, 1);
  uploads.value = [...uploads.value];
  announce(t("picture.removed", { name: gone.name }));
}

const dragged = signal(-1);

function Thumb({ upload, index, count }) {
  const onKey = (event) => {
    if (!event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const by = event.key === "ArrowLeft" ? -1 : 1;
    if (move(index, by)) requestAnimationFrame(() => document.querySelectorAll(".composer .upload")[index + by]?.querySelector("button")?.focus());
  };
  const onDrop = (event) => {
    event.preventDefault();
    event.stopPropagation();
    if (dragged.value >= 0) move(dragged.value, index - dragged.value);
    else add(event.dataTransfer.files);
    dragged.value = -1;
  };
  const isBusy = !upload.picture.value && !upload.error.value;
  return html`<li class=${`upload${upload.error.value ? " bad" : ""}`} draggable onDragStart=${() => { dragged.value = index; }}
      onDragEnd=${() => { dragged.value = -1; }} onDragOver=${(event) => event.preventDefault()} onDrop=${onDrop} onKeyDown=${onKey} aria-busy=${isBusy}>
    <img src=${upload.url} alt=${t("picture.named", { n: index + 1, name: upload.name })} />
    ${upload.error.value && html`<p class="error" role="alert">${upload.name}: ${upload.error.value}</p>`}
    <span class="row">
      <button type="button" class="small" disabled=${index === 0} onClick=${() => move(index, -1)} aria-label=${t("picture.left", { name: upload.name })}>←</button>
      <button type="button" class="small" disabled=${index === count - 1} onClick=${() => move(index, 1)} aria-label=${t("picture.right", { name: upload.name })}>→</button>
      <button type="button" class="small" onClick=${() => remove(index)} aria-label=${t("picture.remove", { name: upload.name })}>×</button>
    </span>
  </li>`;
}

/** @param {{onAsk: (question: {text: string, pictures: any[], model: string, route: string, template: string}) => void}} props */
export function Composer({ onAsk }) {
  const box = useRef(null);
  const chooser = useRef(null);
  const camera = useRef(null);
  const isWaiting = useSignal(false);
  useEffect(() => { box.current?.focus({ preventScroll: true }); }, []);
  const hasBad = uploads.value.some((each) => each.error.value);
  const isEmpty = !text.value.trim() && !uploads.value.length;

  const submit = async (event) => {
    event?.preventDefault();
    if (isEmpty || hasBad || isWaiting.value) return;
    isWaiting.value = true;
    await Promise.all(uploads.value.map((each) => each.done));
    isWaiting.value = false;
    if (uploads.value.some((each) => each.error.value)) return;
    const pictures = uploads.value.map((each) => each.picture.value);
    const asked = { text: text.value.trim(), pictures, template: template.value };
    text.value = "";
    uploads.value = [];
    const engine = ["glm", "owl2"].includes(who.value) ? who.value : "";
    onAsk({ ...asked, model: (engine && modelOf(engine)) || "glowl", route: engine ? "" : who.value });
  };
  const onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) void submit(event);
  };
  const onPaste = (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  };
  const chosen = (event) => { add(event.target.files); event.target.value = ""; };
  const openOptions = async () => {
    if (!templates.value.length) templates.value = (await call("/v1/templates")).data;
  };
  return html`<form class="composer" onSubmit=${submit} aria-label=${t("ask.form")}>
    ${uploads.value.length > 0 && html`<ol class="uploads" aria-label=${t("pictures")}>
      ${uploads.value.map((each, index) => html`<${Thumb} key=${each.key} upload=${each} index=${index} count=${uploads.value.length} />`)}
    </ol>`}
    <label class="sr" for="question">${t("ask.question")}</label>
    <textarea id="question" ref=${box} rows="2" placeholder=${t("ask.placeholder")} value=${text.value}
      onInput=${(event) => { text.value = event.target.value; }} onKeyDown=${onKey} onPaste=${onPaste}></textarea>
    <div class="row">
      <button type="button" onClick=${() => chooser.current.click()}>${t("ask.choose")}</button>
      <button type="button" class="camera" onClick=${() => camera.current.click()}>${t("ask.camera")}</button>
      <input ref=${chooser} type="file" accept="image/*" multiple hidden onChange=${chosen} aria-label=${t("ask.choose")} />
      <input ref=${camera} type="file" accept="image/*" capture="environment" hidden onChange=${chosen} aria-label=${t("ask.camera")} />
      <details class="options" onToggle=${() => void openOptions()}>
        <summary>${t("ask.options")}</summary>
        <div class="row">
          <label>${t("ask.who")} <select value=${who.value} onChange=${(event) => { who.value = event.target.value; }}>
            <option value="">${t("ask.who.auto")}</option>
            <option value="fast">${t("ask.who.fast")}</option>
            <option value="deep">${t("ask.who.deep")}</option>
            ${["glm", "owl2"].filter((engine) => models.value.some((each) => each.hybrid.engine === engine)).map((engine) => html`<option value=${engine}>${modelOf(engine)}</option>`)}
          </select></label>
          <label>${t("ask.template")} <select value=${template.value} onChange=${(event) => { template.value = event.target.value; }}>
            <option value="">${t("ask.template.none")}</option>
            ${templates.value.map((each) => html`<option value=${each.id}>${each.title}</option>`)}
          </select></label>
        </div>
      </details>
      <button class="primary" disabled=${isEmpty || hasBad} aria-busy=${isWaiting.value}>${t("ask.send")}</button>
    </div>
  </form>`;
}

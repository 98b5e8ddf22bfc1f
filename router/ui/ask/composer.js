// In: words and pictures. Out: a question, once every picture is up.
import { html, signal, useEffect, useRef, useSignal } from "../core/html.js";
import { Icon } from "../core/icons.js";
import { language, t } from "../core/language.js";
import { announce } from "../core/announce.js";
import { call } from "../core/api.js";
import { modelOf, models } from "../core/service.js";
import { Camera } from "./camera.js";
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
  const isOver = useSignal(false);
  const onKey = (event) => {
    if (!event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const by = event.key === "ArrowLeft" ? -1 : 1;
    step(by);
  };
  // A node that is moved, or that goes, takes the focus with it: the keyboard stays where the picture is.
  const focus = (at, name) => requestAnimationFrame(() => {
    const buttons = [...(document.querySelectorAll(".composer .upload")[at]?.querySelectorAll("button:enabled") ?? [])];
    (buttons.find((each) => each.name === name) ?? buttons[0] ?? document.getElementById("question"))?.focus();
  });
  const step = (by) => { if (move(index, by)) focus(index + by, by < 0 ? "left" : "right"); };
  const onDrop = (event) => {
    event.preventDefault();
    event.stopPropagation();
    isOver.value = false;
    if (dragged.value >= 0) move(dragged.value, index - dragged.value);
    else add(event.dataTransfer.files);
    dragged.value = -1;
  };
  const isBusy = !upload.picture.value && !upload.error.value;
  const isBad = upload.error.value !== "";
  return html`<li class=${`upload${isBad ? " bad" : ""}${isOver.value ? " over" : ""}`} draggable aria-busy=${isBusy} onKeyDown=${onKey} onDrop=${onDrop}
      onDragStart=${() => { dragged.value = index; }} onDragEnd=${() => { dragged.value = -1; }}
      onDragOver=${(event) => { event.preventDefault(); isOver.value = dragged.value >= 0 && dragged.value !== index; }} onDragLeave=${() => { isOver.value = false; }}>
    ${isBad
      ? html`<p class="error" role="alert"><${Icon} name="file" /> ${upload.name}: ${upload.error.value}</p>`
      : html`<img src=${upload.url} alt=${t("picture.named", { n: index + 1, name: upload.name })} draggable=${false} />`}
    <span class="row">
      <button type="button" name="left" class="small quiet" disabled=${index === 0} onClick=${() => step(-1)} aria-label=${t("picture.left", { name: upload.name })}><${Icon} name="left" /></button>
      <button type="button" name="right" class="small quiet" disabled=${index === count - 1} onClick=${() => step(1)} aria-label=${t("picture.right", { name: upload.name })}><${Icon} name="right" /></button>
      <button type="button" name="remove" class="small quiet" onClick=${() => { remove(index); focus(Math.min(index, count - 2), "remove"); }} aria-label=${t("picture.remove", { name: upload.name })}><${Icon} name="cross" /></button>
    </span>
  </li>`;
}

/** @param {{onAsk: (question: {text: string, pictures: any[], model: string, route: string, template: string}) => void}} props */
export function Composer({ onAsk }) {
  const box = useRef(null);
  const chooser = useRef(null);
  const camera = useRef(null);
  const isTouched = window.matchMedia("(pointer: coarse)").matches;
  const isWaiting = useSignal(false);
  const isOpen = useSignal(false);
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
    isOpen.value = false;
    if (!isTouched) box.current?.focus(); // a button that has nothing to send any more loses it
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
  // Titles come in the language of the page.
  useEffect(() => { if (isOpen.value) call("/v1/templates").then((found) => { templates.value = found.data; }, () => {}); }, [isOpen.value, language.value]);
  return html`<form class="composer" onSubmit=${submit} aria-label=${t("ask.form")}><div class="box">
    ${uploads.value.length > 0 && html`<ol class="uploads" aria-label=${t("pictures")}>
      ${uploads.value.map((each, index) => html`<${Thumb} key=${each.key} upload=${each} index=${index} count=${uploads.value.length} />`)}
    </ol>`}
    <label class="sr" for="question">${t("ask.question")}</label>
    <textarea id="question" ref=${box} rows="1" placeholder=${t(isTouched ? "ask.placeholder.short" : "ask.placeholder")} value=${text.value}
      onInput=${(event) => { text.value = event.target.value; }} onKeyDown=${onKey} onPaste=${onPaste}></textarea>
    <div id="options" class="row options" hidden=${!isOpen.value}>
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
    ${hasBad && html`<p class="note" role="status">${t("ask.refused")}</p>`}
    <div class="row tools">
      <button type="button" class="quiet" title=${t("ask.choose")} onClick=${() => chooser.current.click()}><${Icon} name="picture" /><span class="narrow-hide">${t("ask.choose")}</span></button>
      ${isTouched
        ? html`<button type="button" class="quiet" title=${t("ask.camera")} onClick=${() => camera.current.click()}><${Icon} name="camera" /><span class="narrow-hide">${t("ask.camera")}</span></button>`
        : html`<${Camera} onTaken=${(file) => add([file])} />`}
      <input ref=${chooser} type="file" accept="image/*" multiple hidden onChange=${chosen} aria-label=${t("ask.choose")} />
      <input ref=${camera} type="file" accept="image/*" capture="environment" hidden onChange=${chosen} aria-label=${t("ask.camera")} />
      <button type="button" class=${`quiet${who.value || template.value ? " on" : ""}`} title=${t("ask.options")} aria-expanded=${isOpen.value} aria-controls="options" onClick=${() => { isOpen.value = !isOpen.value; }}><${Icon} name="options" /><span class="narrow-hide">${t("ask.options")}</span></button>
      <button class="primary" disabled=${isEmpty || hasBad} aria-busy=${isWaiting.value}><${Icon} name="send" />${t("ask.send")}</button>
    </div>
  </div></form>`;
}

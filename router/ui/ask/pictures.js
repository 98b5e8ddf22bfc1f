// In: files that somebody chose, dropped, pasted or took; ids of files in the history. Out: pictures that can be shown
// and asked about. Each is uploaded once and named by its id from then on.
import { html, signal, useEffect, useRef, useSignal } from "../core/html.js";
import { ApiError, call, send } from "../core/api.js";
import { t } from "../core/language.js";
import { isRedisUp } from "../core/service.js";

/** @type {Map<string, Promise<string>>} object URLs by file id, so that a picture is read once per tab */
const urls = new Map();

/** The object URL of a stored picture. @param {string} fileId */
export function urlOf(fileId) {
  if (!urls.has(fileId)) {
    const reading = send(`/v1/files/${encodeURIComponent(fileId)}/content`).then(async (response) => URL.createObjectURL(await response.blob()));
    reading.catch(() => urls.delete(fileId));
    urls.set(fileId, reading);
  }
  return /** @type {Promise<string>} */ (urls.get(fileId));
}

const toDataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => resolve(reader.result));
  reader.addEventListener("error", () => reject(reader.error));
  reader.readAsDataURL(file);
});

/** A picture on its way up. */
export class Upload {
  /** @param {File} file */
  constructor(file) {
    this.key = `${Date.now()}-${Math.random()}`;
    this.name = file.name || t("picture");
    this.url = URL.createObjectURL(file);
    /** @type {{value: import("./turns.js").Picture | null}} */
    this.picture = signal(null);
    this.error = signal("");
    this.done = this.#run(file);
  }

  async #run(file) {
    try {
      if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) { this.error.value = t("picture.pdf"); return undefined; }
      if (!isRedisUp.value) return await this.#inline(file);
      const form = new FormData();
      form.append("purpose", "vision");
      form.append("file", file, file.name || "picture");
      const stored = await call("/v1/files", { body: form });
      urls.set(stored.id, Promise.resolve(this.url));
      this.picture.value = { file_id: stored.id, name: this.name };
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      // A key that may ask, but not store files, sends its pictures inside the question.
      if (error.status === 403) return await this.#inline(file);
      this.error.value = error.message;
    }
    return undefined;
  }

  async #inline(file) {
    this.picture.value = { data_url: await toDataUrl(file), url: this.url, name: this.name };
  }
}

/** The bytes of a sample picture, as if somebody had chosen it. @param {string} name */
export async function sampleFile(name) {
  const response = await fetch(new URL(`../samples/${name}`, import.meta.url));
  return new File([await response.blob()], name, { type: "image/png" });
}

const THUMB_REM = 7.5;

/** Where a box is on a picture of any size. Boxes are in pixels of the picture as it was sent. */
const placeOf = (box, size) => ({
  left: `${(100 * box.x1) / size.w}%`, top: `${(100 * box.y1) / size.h}%`,
  width: `${(100 * (box.x2 - box.x1)) / size.w}%`, height: `${(100 * (box.y2 - box.y1)) / size.h}%`,
});

/** The size of a frame that has the shape of its picture, so that places in it are where they are in the picture. */
const frameOf = (size, width) => size && { aspectRatio: `${size.w} / ${size.h}`, width };

/**
 * A picture of a question, with the places that an answer names drawn on it.
 * @param {{picture: import("./turns.js").Picture, number: number, boxes?: any[]}} props
 */
export function Picture({ picture, number, boxes = [] }) {
  const source = useSignal(picture.url ?? "");
  const isGone = useSignal(false);
  const size = useSignal(null);
  const dialog = useRef(null);
  useEffect(() => {
    if (picture.url || !picture.file_id) return;
    urlOf(picture.file_id).then((url) => { source.value = url; }, () => { isGone.value = true; });
  }, [picture.file_id]);
  const label = picture.name ? t("picture.named", { n: number, name: picture.name }) : t("picture.n", { n: number });
  if (isGone.value) return html`<span class="thumb gone">${label}<br />${t("picture.gone")}</span>`;
  if (!source.value) return html`<span class="thumb" aria-busy="true">${label}</span>`;
  const marks = size.value && boxes.map((box, index) => html`<span key=${index} class="mark" aria-hidden="true" style=${placeOf(box, size.value)}><b>${index + 1}</b></span>`);
  const note = boxes.length ? ` ${t("picture.boxes", { n: boxes.length })}` : "";
  const seen = (event) => { size.value = { w: event.target.naturalWidth, h: event.target.naturalHeight }; };
  const failed = () => { isGone.value = true; };
  return html`<button type="button" class="thumb" onClick=${() => dialog.current.showModal()} aria-label=${t("picture.open", { what: label }) + note}>
      <span class="frame" style=${frameOf(size.value, `min(60vw, ${(THUMB_REM * size.value?.w) / size.value?.h}rem)`)}><img src=${source.value} alt="" onLoad=${seen} onError=${failed} />${marks}</span>
    </button>
    <dialog class="viewer" ref=${dialog} aria-label=${label} onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
      <div class="frame" style=${frameOf(size.value, `min(88vw, ${(76 * size.value?.w) / size.value?.h}vh, max(${size.value?.w}px, 32rem))`)}><img src=${source.value} alt=${label + note} />${marks}</div>
      <form method="dialog" class="row"><button>${t("close")}</button></form>
    </dialog>`;
}

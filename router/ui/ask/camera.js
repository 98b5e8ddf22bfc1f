// In: a camera of the computer, if there is one. Out: a picture as a file, as if it had been chosen. Phones have a better
// way: a file input with `capture`.
import { html, useRef, useSignal } from "../core/html.js";
import { Icon } from "../core/icons.js";
import { t } from "../core/language.js";

const QUALITY = 0.92;

/** @param {{onTaken: (file: File) => void}} props */
export function Camera({ onTaken }) {
  const dialog = useRef(null);
  const video = useRef(null);
  /** @type {{current: MediaStream | null}} */
  const stream = useRef(null);
  const problem = useSignal("");
  const isReady = useSignal(false);
  // Browsers have no cameras on pages that came by plain http from another machine.
  if (!navigator.mediaDevices?.getUserMedia) return null;

  const open = async () => {
    problem.value = "";
    isReady.value = false;
    dialog.current.showModal();
    try {
      const opened = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, height: { ideal: 1080 } } });
      if (!dialog.current?.open) { for (const track of opened.getTracks()) track.stop(); return; } // closed meanwhile
      stream.current = opened;
      video.current.srcObject = opened;
    } catch (error) {
      problem.value = t(error.name === "NotAllowedError" ? "camera.refused" : "camera.none");
    }
  };
  const closed = () => {
    for (const track of stream.current?.getTracks() ?? []) track.stop();
    stream.current = null;
    if (video.current) video.current.srcObject = null;
  };
  const take = () => {
    const { videoWidth: width, videoHeight: height } = video.current;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(video.current, 0, 0);
    dialog.current.close();
    canvas.toBlob((blob) => {
      const name = `${t("camera.name")}-${new Date().toISOString().slice(11, 19).replaceAll(":", "")}.jpg`;
      if (blob) onTaken(new File([blob], name, { type: "image/jpeg" }));
    }, "image/jpeg", QUALITY);
  };
  return html`<button type="button" class="quiet" title=${t("ask.camera")} onClick=${() => void open()}><${Icon} name="camera" /><span class="narrow-hide">${t("ask.camera")}</span></button>
    <dialog class="viewer" ref=${dialog} aria-label=${t("ask.camera")} onClose=${closed}>
      ${problem.value ? html`<p class="error" role="alert">${problem.value}</p>` : html`<video ref=${video} autoplay muted playsinline onLoadedData=${() => { isReady.value = true; }} aria-label=${t("camera.sees")}></video>`}
      <div class="row">
        <button type="button" onClick=${() => dialog.current.close()}>${t("cancel")}</button>
        ${!problem.value && html`<button type="button" class="primary" disabled=${!isReady.value} onClick=${take}><${Icon} name="camera" />${t("camera.take")}</button>`}
      </div>
    </dialog>`;
}

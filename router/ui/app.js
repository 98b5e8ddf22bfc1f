// In: the address after `#`. Out: the page: its head, one banner, and the view that the address names.
import { announce } from "./core/announce.js";
import { Icon } from "./core/icons.js";
import { effect, html, render, signal, useEffect, useRef, useSignal } from "./core/html.js";
import { key, needsKey, signIn } from "./core/api.js";
import { choose, language, t, theme } from "./core/language.js";
import { isRefused, start, troubles } from "./core/service.js";
import Ask from "./views/ask.js";

const VIEWS = ["ask", "jobs", "review", "lab", "status"];
/** Views that are read when they are first looked at. @type {Record<string, any>} */
const loaded = { ask: Ask };

const where = signal(parse());
const view = signal({ name: "ask", Component: Ask });

function parse() {
  const [name, ...path] = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  return { name: VIEWS.includes(name) ? name : "ask", path };
}

window.addEventListener("hashchange", () => { where.value = parse(); });

effect(() => {
  const { name } = where.value;
  document.title = `${t(`view.${name}`)} · Glowl`;
  if (loaded[name]) { view.value = { name, Component: loaded[name] }; return; }
  void import(`./views/${name}.js`).then((module) => {
    loaded[name] = module.default;
    if (where.peek().name === name) view.value = { name, Component: module.default };
  });
});

const THEMES = /** @type {const} */ (["auto", "light", "dark"]);

function nextTheme() {
  choose("theme", THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]);
  announce(t("theme.now", { theme: t(`theme.${theme.value}`) }));
}

function Head() {
  const { name } = where.value;
  const other = language.value === "zh" ? "en" : "zh";
  return html`<header class="top">
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>${t("skip")}</a>
    <span class="brand"><img src=${new URL("icon.svg", import.meta.url).href} alt="" width="28" height="28" /><b>Glowl</b></span>
    <nav aria-label=${t("views")}>${VIEWS.map((each) => html`<a key=${each} href=${`#/${each}`} aria-current=${each === name ? "page" : undefined}>${t(`view.${each}`)}</a>`)}</nav>
    <span class="choices">
      <button type="button" class="quiet" title=${t("theme.now", { theme: t(`theme.${theme.value}`) })} aria-label=${t("theme.now", { theme: t(`theme.${theme.value}`) })} onClick=${nextTheme}><${Icon} name=${theme.value} /></button>
      <button type="button" class="quiet" lang=${other} aria-label=${other === "zh" ? "中文" : "English"} onClick=${() => choose("language", other)}>${other === "zh" ? "中文" : "EN"}</button>
      ${key.value && !needsKey.value && html`<button type="button" class="quiet" title=${t("signOut")} onClick=${() => { signIn(""); location.reload(); }}><${Icon} name="out" /><span class="narrow-hide">${t("signOut")}</span></button>`}
    </span>
  </header>`;
}

function Banner() {
  const found = troubles.value;
  return html`<div role="status" class="banner-place">${found.length > 0 && html`<p class="banner">⚠ ${found.map(([name, values]) => t(name, values)).join(" ")}</p>`}</div>`;
}

function SignIn() {
  const field = useRef(null);
  const wasWrong = useSignal(key.value !== "");
  // The page begins anew with a good key: until then there is nothing in it that could be lost by that.
  const submit = async (event) => {
    event.preventDefault();
    wasWrong.value = false;
    wasWrong.value = !signIn(field.current.value) || await isRefused();
    if (!wasWrong.value) location.reload();
  };
  useEffect(() => field.current?.focus(), []);
  return html`<form class="sign-in" onSubmit=${submit}>
    <h1>${t("signIn")}</h1>
    <p>${t("signIn.why")}</p>
    <label for="key">${t("signIn.key")}</label>
    <input id="key" ref=${field} type="password" autocomplete="off" spellcheck=${false} required aria-describedby="key-note" />
    ${wasWrong.value && html`<p class="error" role="alert">${t("signIn.wrong")}</p>`}
    <p id="key-note" class="note">${t("signIn.kept")}</p>
    <button class="primary">${t("signIn")}</button>
  </form>`;
}

function Page() {
  const { Component, name } = view.value;
  return html`<${Head} /><${Banner} />
    <main id="main" tabindex=${name === "ask" ? -1 : 0} class=${`view-${name}`}>${needsKey.value ? html`<${SignIn} />` : html`<${Component} path=${where.value.path} key=${name} />`}</main>`;
}

start();
const root = document.getElementById("app");
root.textContent = "";
render(html`<${Page} />`, root);

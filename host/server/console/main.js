// Log-in, navigation and the frame of all views.

import { session, send, path } from "./api.js";
import { isOfOneApp, loadAccess, may } from "./access.js";
import { html, render, link, useEffect, useLoad, useRef, useState, Field, Refusal, Text, useAction } from "./ui.js";
import { Overview } from "./overview.js";
import { Apps } from "./apps.js";
import { App } from "./app.js";
import { Tokens } from "./tokens.js";
import { Audit } from "./audit.js";

/** The place that the fragment of the URL names. */
function place() {
  const [route, query] = location.hash.replace(/^#\/?/, "").split("?");
  let segments = [];
  try {
    segments = route.split("/").filter((part) => part !== "").map(decodeURIComponent);
  } catch {
    // A malformed escape: the first view.
  }
  return { segments, query: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

function usePlace() {
  const [here, setHere] = useState(place);
  useEffect(() => {
    const follow = () => setHere(place());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return here;
}

function Theme() {
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const [dark, setDark] = useState(isDark);
  const toggle = () => {
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("kvasm-theme", root.dataset.theme);
    setDark(!dark);
  };
  return html`<button type="button" aria-pressed=${dark} onClick=${toggle}>Dark</button>`;
}

function LogIn({ why, onDone }) {
  const [token, setToken] = useState("");
  const logIn = useAction(async () => {
    const given = token.trim();
    if (!/^[\x21-\x7e]+$/.test(given)) throw new Error("A token begins with kvasm_ and has no spaces.");
    await send("GET", path(["token"]), { token: given });
    session.begin(given);
    onDone();
  });
  return html`<main class="login">
    <h1>Kvasm console</h1>
    ${why && html`<p class="note" role="alert">${why}</p>`}
    <form onSubmit=${(event) => { event.preventDefault(); logIn.start(); }}>
      <${Field} label="Token" hint="It is kept in this tab until you log out or close it.">
        <input name="token" type="password" autocomplete="off" required value=${token}
          onInput=${(event) => setToken(event.target.value)} />
      <//>
      <${Refusal} problem=${logIn.problem} />
      <p class="buttons"><button type="submit" class="primary" disabled=${logIn.busy}>Log in</button><${Theme} /></p>
    </form>
  </main>`;
}

const VIEWS = { overview: Overview, apps: Apps, tokens: Tokens, audit: Audit };
const SECTIONS = [["overview", "Overview"], ["apps", "Apps"], ["tokens", "Tokens"], ["audit", "Audit"]];

function Console() {
  const [isIn, setIn] = useState(() => session.token() !== null);
  const [why, setWhy] = useState(null);
  const { segments, query } = usePlace();
  const main = useRef(null);
  const end = (reason) => {
    session.end();
    setWhy(reason);
    setIn(false);
  };
  useEffect(() => session.whenRefused(() => end("The token is no longer valid.")), []);
  const first = may("app:read") && !isOfOneApp() ? "overview" : "apps";
  const section = Object.hasOwn(VIEWS, segments[0] ?? "") ? segments[0] : first;
  const app = section === "apps" ? segments[1] : undefined;
  useEffect(() => {
    document.title = `${app && /^[a-z0-9_-]{1,64}$/.test(app) ? `${app} – ` : ""}Kvasm console`;
    main.current?.querySelector("h1")?.focus();
  }, [isIn, section, app, segments[2]]);
  const access = useLoad(async (signal) => (isIn ? loadAccess(signal) : null), [isIn]);
  if (!isIn) return html`<${LogIn} why=${why} onDone=${() => { setWhy(null); setIn(true); }} />`;
  if (access.problem) return html`<main><h1>Kvasm console</h1><${Refusal} problem=${access.problem} />
    <p class="buttons"><button type="button" onClick=${access.reload}>Try again</button><button type="button" onClick=${() => end(null)}>Log out</button></p></main>`;
  if (!access.data) return null;
  const View = VIEWS[section];
  return html`<div>
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.querySelector("h1")?.focus(); }}>Skip to content</a>
    <header class="bar">
      <strong>Kvasm</strong>
      <nav aria-label="Sections">${SECTIONS.map(([name, title]) => html`
        <a href=${link([name])} aria-current=${name === section ? "page" : undefined}>${title}</a>`)}</nav>
      <span class="buttons"><span class="dim" title=${access.data.scopes.join(" ")}><${Text} value=${access.data.name} />${isOfOneApp() && ", one app"}</span><${Theme} /><button type="button" onClick=${() => end(null)}>Log out</button></span>
    </header>
    <main id="main" ref=${main}>
      ${app ? html`<${App} key=${app} app=${app} tab=${segments[2]} query=${query} />` : html`<${View} query=${query} />`}
    </main>
  </div>`;
}

render(html`<${Console} />`, document.getElementById("app"));

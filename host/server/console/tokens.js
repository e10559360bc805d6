// Tokens of an app, or of every app. A new one is shown once.

import { get, json, path, send } from "./api.js";
import { may } from "./access.js";
import { html, useAction, usePages, useState } from "./ui.js";
import { Confirm, Dialog, Field, Listing, Refusal, Text } from "./ui.js";
import { shown, time } from "./text.js";

const PAGE = 25;
const DAY = 24 * 60 * 60 * 1000;
const SCOPES = [
  ["script:read", "read entries"], ["script:write", "write entries"], ["app:read", "see apps"], ["app:admin", "manage apps"],
  ["plugin:deploy", "deploy plugins"], ["log:read", "read logs"], ["instance:admin", "manage the server"],
];

function Create({ at, ofApp, onClose, onDone }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState([]);
  const [days, setDays] = useState("90");
  const create = useAction(async () => {
    if (scopes.length === 0) throw new Error("Choose at least one scope.");
    if (days !== "" && !/^[1-9]\d{0,4}$/.test(days)) throw new Error("The days are a whole number, or empty.");
    const expiry = days === "" ? {} : { expires_at: Date.now() + Number(days) * DAY };
    onDone(await json("POST", path(at), { name, scopes, ...expiry }));
  });
  const toggle = (scope) => setScopes(scopes.includes(scope) ? scopes.filter((each) => each !== scope) : [...scopes, scope]);
  return html`<${Dialog} title="New token" onClose=${onClose}><form onSubmit=${(event) => { event.preventDefault(); create.start(); }}>
    <${Field} label="Name"><input name="token-name" required maxlength="128" autocomplete="off" value=${name} onInput=${(event) => setName(event.target.value)} /><//>
    <fieldset><legend>Scopes</legend>${SCOPES.filter(([scope]) => !ofApp || scope !== "instance:admin").map(([scope, why]) => html`
      <label class="check"><input type="checkbox" checked=${scopes.includes(scope)} onChange=${() => toggle(scope)} /> <code>${scope}</code> ${why}</label>`)}</fieldset>
    <${Field} label="Expires after days" hint="Empty: with the token that creates it"><input inputmode="numeric" value=${days} onInput=${(event) => setDays(event.target.value.trim())} /><//>
    <${Refusal} problem=${create.problem} />
    <p class="buttons"><button type="submit" class="primary" disabled=${create.busy}>Create</button><button type="button" onClick=${onClose}>Cancel</button></p>
  </form><//>`;
}

function Once({ made, onClose }) {
  const [copied, setCopied] = useState("");
  const copy = () => navigator.clipboard.writeText(made.secret).then(() => setCopied("Copied."), () => setCopied("Copying failed: select it."));
  return html`<${Dialog} title="The new token" onClose=${() => {}}>
    <p>It is shown only now. Keep it in a safe place.</p>
    <p><code class="secret">${made.secret}</code></p>
    <p class="buttons"><button type="button" onClick=${copy}>Copy</button><button type="button" class="primary" onClick=${onClose}>I have it</button><span role="status">${copied}</span></p>
  <//>`;
}

export function Tokens({ app }) {
  const at = app ? ["apps", app, "tokens"] : ["tokens"];
  const pages = usePages(async (after, signal) => {
    const page = await get(path(at, { after, limit: PAGE }), signal);
    return { rows: page.tokens, next: page.next };
  }, [app ?? null]);
  const [creating, setCreating] = useState(false);
  const [made, setMade] = useState(null);
  const [revoking, setRevoking] = useState(null);
  const state = (row) => {
    if (row.revoked_at) return `revoked ${time(row.revoked_at)}`;
    if (row.expires_at && row.expires_at <= Date.now()) return `expired ${time(row.expires_at)}`;
    return row.expires_at ? `until ${time(row.expires_at)}` : "valid";
  };
  const columns = [
    ["Name", (row) => html`<${Text} value=${row.name} />`],
    ["Scopes", (row) => html`<code>${row.scopes.join(" ")}</code>`],
    !app && ["For", (row) => (row.app ? html`the app <code>${row.app}</code>` : "every app")],
    ["Created", (row) => time(row.created_at)],
    ["State", state],
    ["Actions", (row) => !row.revoked_at && html`<button type="button" aria-label=${`Revoke ${shown(row.name)}`} onClick=${() => setRevoking(row)}>Revoke</button>`],
  ].filter(Boolean);
  return html`<div>
    ${!app && html`<h1 tabindex="-1">Tokens</h1>`}
    ${may(app ? "app:admin" : "instance:admin") && html`<p class="buttons"><button type="button" class="primary" onClick=${() => setCreating(true)}>New token</button></p>`}
    <${Listing} pages=${pages} columns=${columns} what="tokens" />
    ${creating && html`<${Create} at=${at} ofApp=${Boolean(app)} onClose=${() => setCreating(false)} onDone=${(done) => { setCreating(false); setMade(done); }} />`}
    ${made && html`<${Once} made=${made} onClose=${() => { setMade(null); pages.reload(); }} />`}
    ${revoking && html`<${Confirm} title="Revoke the token" action="Revoke" onConfirm=${() => send("DELETE", path([...at, revoking.id]))}
      onClose=${() => setRevoking(null)} closed=${() => { setRevoking(null); pages.reload(); }}>
      <p><${Text} value=${revoking.name} /> is refused from then on.</p><//>`}
  </div>`;
}

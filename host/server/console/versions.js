// Plugin versions: deploy, activate, roll back.

import { get, json, path, send } from "./api.js";
import { may } from "./access.js";
import { html, useAction, usePages, useRef, useState } from "./ui.js";
import { Confirm, Lacks, Listing, Refusal, Text, grantText } from "./ui.js";
import { Compare } from "./compare.js";
import { size, time } from "./text.js";

const PAGE = 25;

function Changes({ deployed }) {
  const { added = [], removed = [] } = deployed.changes ?? {};
  return html`<div class="note good" role="status">
    <strong>Version ${deployed.version} is ${deployed.active ? "active" : "stored"}</strong>
    ${added.length > 0 && html`<p>It needs more than the version before:</p><ul>${added.map((grant) => html`<li><${Text} value=${grantText(grant)} /></li>`)}</ul>`}
    ${removed.length > 0 && html`<p>It no longer needs:</p><ul>${removed.map((grant) => html`<li><${Text} value=${grantText(grant)} /></li>`)}</ul>`}
  </div>`;
}

function Deploy({ app, onDone }) {
  const [activate, setActivate] = useState(true);
  const [over, setOver] = useState(false);
  const [file, setFile] = useState(null);
  const input = useRef(null);
  const deploy = useAction(async (chosen) => {
    setFile(chosen);
    const target = path(["apps", app, "plugins"], { activate: activate ? undefined : "false" });
    const response = await send("POST", target, { body: chosen, type: "application/wasm" });
    onDone();
    return response.json();
  });
  const missing = (deploy.problem?.unmet ?? []).filter((need) => need.missing === "grant").map((need) => need.grant);
  const grant = useAction(async () => {
    await json("POST", path(["apps", app, "grants"]), { grants: missing });
    await deploy.start(file);
  });
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    const [dropped] = event.dataTransfer.files;
    if (dropped) deploy.start(dropped);
  };
  return html`<section><h2>Deploy</h2>
    <div class=${over ? "drop over" : "drop"} onDrop=${drop} onDragLeave=${() => setOver(false)}
      onDragOver=${(event) => { event.preventDefault(); setOver(true); }}>
      <p>Drop a module (.wasm) here, or choose one:</p>
      <label class="field"><span>Module</span><input ref=${input} type="file" name="module" accept=".wasm,application/wasm" disabled=${deploy.busy}
        onChange=${(event) => { const [chosen] = event.target.files; if (chosen) deploy.start(chosen); event.target.value = ""; }} /></label>
      <label class="check"><input type="checkbox" checked=${activate} onChange=${(event) => setActivate(event.target.checked)} /> Activate it</label>
    </div>
    ${deploy.busy && html`<p role="status">Uploading and compiling <${Text} value=${file?.name} /> (${size(file?.size ?? 0)}) …</p>`}
    <${Refusal} problem=${deploy.problem} />
    ${missing.length > 0 && html`<${Lacks} scope="app:admin" to="grant these" />`}
    ${missing.length > 0 && may("app:admin") && html`<p class="buttons"><button type="button" class="primary" disabled=${grant.busy} onClick=${grant.start}>Grant these and deploy again</button></p>`}
    <${Refusal} problem=${grant.problem} />
    ${deploy.done && html`<${Changes} deployed=${deploy.done} />`}
  </section>`;
}

export function Versions({ app }) {
  const pages = usePages(async (before, signal) => {
    const page = await get(path(["apps", app, "plugins"], { before, limit: PAGE }), signal);
    return { rows: page.plugins, next: page.next };
  }, [app]);
  const [asked, setAsked] = useState(null);
  const [compared, setCompared] = useState(null);
  const active = pages.rows.find((row) => row.active);
  const activate = (version) => send("POST", path(["apps", app, "plugins", String(version), "activate"]));
  const questions = {
    activate: (version) => ["Activate", `Calls that begin from now on run version ${version}.`, () => activate(version)],
    back: () => ["Roll back", "Activates the version that the active one replaced.", () => send("POST", path(["apps", app, "rollback"]))],
    remove: (version) => ["Delete", `Deletes version ${version} permanently.`, () => send("DELETE", path(["apps", app, "plugins", String(version)]))],
  };
  const columns = [
    ["Version", (row) => html`${row.version}${row.active && html` <span class="badge">active</span>`}`],
    ["Functions", (row) => html`<${Text} value=${row.functions.join(", ") || "none"} />${row.http && html`<span class="dim">, HTTP</span>`}`],
    ["Size", (row) => size(row.size)],
    ["Digest", (row) => html`<code>${row.digest.slice(0, 12)}</code>`],
    ["Compare", (row) => !row.active && active && html`<button type="button" aria-label=${`Compare with ${active.version}: version ${row.version}`}
      onClick=${() => setCompared([active.version, row.version])}>Compare with ${active.version}</button>`],
    ["Uploaded", (row) => html`${time(row.created_at)} by <${Text} value=${row.created_by} />`],
    ["Actions", (row) => (row.active
      ? html`<button type="button" disabled=${!row.replaced} onClick=${() => setAsked(["back"])}>Roll back${row.replaced ? ` to ${row.replaced}` : ""}</button>`
      : html`<span class="buttons"><button type="button" aria-label=${`Activate version ${row.version}`} onClick=${() => setAsked(["activate", row.version])}>Activate</button>
        <button type="button" aria-label=${`Delete version ${row.version}`} onClick=${() => setAsked(["remove", row.version])}>Delete</button></span>`), "plugin:deploy"],
  ];
  const question = asked && questions[asked[0]](asked[1]);
  return html`<div>
    ${may("plugin:deploy") ? html`<${Deploy} app=${app} onDone=${pages.reload} />` : html`<${Lacks} scope="plugin:deploy" to="deploy or activate a version" />`}
    <section><h2>Versions</h2><${Listing} pages=${pages} columns=${columns} what="versions" id=${(row) => row.version} /></section>
    <${Compare} app=${app} chosen=${compared} />
    ${question && html`<${Confirm} title=${question[0]} action=${question[0]} danger=${asked[0] === "remove"} onConfirm=${question[2]}
      onClose=${() => setAsked(null)} closed=${() => { setAsked(null); pages.reload(); }}><p>${question[1]}</p><//>`}
  </div>`;
}

// Sends a request to the plugin's HTTP handler, and shows its response as text or in hexadecimal. The
// server returns it as data: nothing of it is displayed as a page or run.

import { path, send } from "./api.js";
import { Answer, logOf } from "./answer.js";
import { html, link, useAction, useRef, useState } from "./ui.js";
import { Definitions, Field, HiddenCharacters, Lacks, Refusal, Table, Text } from "./ui.js";
import { LogTable } from "./logs.js";
import { may } from "./access.js";
import { size } from "./text.js";
import { fromBase64, parseExact, toBase64 } from "./values.js";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/** The largest file: a request has at most 64 KiB with everything else, where bytes take a third more. */
const FILE_MAX = 47 * 1024;

/** Headers as typed, one in a line. */
function headersOf(text) {
  return text.split("\n").filter((line) => line.trim() !== "").map((line) => {
    const at = line.indexOf(":");
    if (at < 1) throw new Error("Each header is a line such as Accept: text/html.");
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
}

function Response({ app, done }) {
  const columns = [
    ["Header", ({ name }) => html`<${Text} value=${name} />`],
    ["Value", ({ value }) => html`<${Text} value=${value} />`],
  ];
  const rows = done.headers.map(([name, value], id) => ({ id, name, value }));
  return html`<section aria-label="Response"><h3>Response</h3>
    <${Definitions} rows=${[
      ["Status", done.status],
      ["Time", `${done.took} ms, with the network`],
      done.cost && ["Cost", html`<code>${done.cost}</code>`],
      ["Request", html`<a href=${link(["apps", app, "logs"], { request: done.requestId })}><code>${done.requestId}</code></a>`],
    ]} />
    ${rows.length > 0 && html`<${Table} rows=${rows} columns=${columns} what="headers" />`}
    <h4>Body</h4>
    <${Answer} bytes=${done.bytes} />
    ${done.log.length > 0 && html`<h4>Log of the request</h4><${LogTable} app=${app} rows=${done.log} />`}
  </section>`;
}

/** The body as the API reads it: a file as bytes, or else what was typed. */
async function bodyOf(file, text) {
  if (!file) return text === "" ? {} : { text };
  if (file.size > FILE_MAX) throw new Error(`The file has ${size(file.size)}. A file as the body has at most ${size(FILE_MAX)}.`);
  return { bytes: toBase64(new Uint8Array(await file.arrayBuffer())) };
}

function FileField({ file, onFile }) {
  const input = useRef(null);
  const drop = () => { input.current.value = ""; onFile(null); };
  return html`<div>
    <${Field} label="Body from a file" hint=${`At most ${size(FILE_MAX)}. It is sent as it is, instead of the text.`}>
      <input ref=${input} type="file" name="body-file" onChange=${(event) => onFile(event.target.files[0] ?? null)} /><//>
    ${file && html`<p class="buttons"><span>The body is <${Text} value=${file.name} />, ${size(file.size)}.</span>
      <button type="button" onClick=${drop}>Send the text instead</button></p>`}
  </div>`;
}

export function HandlerRequest({ app }) {
  const [method, setMethod] = useState("GET");
  const [target, setTarget] = useState("/");
  const [headers, setHeaders] = useState("");
  const [body, setBody] = useState("");
  const [file, setFile] = useState(null);
  const run = useAction(async () => {
    const began = performance.now();
    const asked = { method, path: target, headers: headersOf(headers), ...await bodyOf(file, body) };
    const response = await send("POST", path(["apps", app, "request"]), {
      body: JSON.stringify(asked), type: "application/json", headers: { "Kvasm-Cost": "?1" },
    });
    const { status, headers: got, text, bytes } = parseExact(await response.text());
    const took = Math.round(performance.now() - began);
    const requestId = response.headers.get("X-Request-Id");
    return {
      status, headers: got, took, requestId, cost: response.headers.get("Kvasm-Cost"),
      bytes: bytes === undefined ? new TextEncoder().encode(text) : fromBase64(bytes),
      log: requestId ? await logOf(app, requestId) : [],
    };
  });
  return html`<section aria-label="HTTP handler"><h2>HTTP handler</h2>
    <${Lacks} scope="app:read" to="send a request to the HTTP handler" />
    ${may("app:read") && html`<form onSubmit=${(event) => { event.preventDefault(); run.start(); }}>
      <div class="tools">
        <${Field} label="Method"><select name="method" value=${method} onChange=${(event) => setMethod(event.target.value)}>
          ${METHODS.map((each) => html`<option value=${each}>${each}</option>`)}</select><//>
        <${Field} label="Path and query"><input name="path" required pattern="/.*" spellcheck=${false} value=${target} onInput=${(event) => setTarget(event.target.value)} /><//>
      </div>
      <${Field} label="Headers" hint="One in a line, such as Accept: text/html. Your token is not passed on.">
        <textarea name="headers" rows="2" spellcheck=${false} value=${headers} onInput=${(event) => setHeaders(event.target.value)}></textarea><//>
      <${Field} label="Body" hint="Text, of at most 64 KiB with the rest of the request">
        <textarea name="body" rows="3" spellcheck=${false} disabled=${file !== null} value=${body} onInput=${(event) => setBody(event.target.value)}></textarea><//>
      <${FileField} file=${file} onFile=${setFile} />
      <${HiddenCharacters} text=${target + headers + (file ? "" : body)} />
      <p class="buttons"><button type="submit" class="primary" disabled=${run.busy}>Send</button>
        <span role="status">${run.busy ? "Running …" : ""}</span></p>
    </form>`}
    <${Refusal} problem=${run.problem} />
    ${run.done && html`<${Response} app=${app} done=${run.done} />`}
  </section>`;
}

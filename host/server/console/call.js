// Calls a function, and shows the answer, what it cost, and the log of the call.

import { get, path, send } from "./api.js";
import { html, link, useAction, useLoad, useState } from "./ui.js";
import { Definitions, Field, HiddenCharacters, Refusal } from "./ui.js";
import { Answer, logOf } from "./answer.js";
import { HandlerRequest } from "./request.js";
import { LogTable } from "./logs.js";
import { shown } from "./text.js";

export function Call({ app }) {
  const functions = useLoad((signal) => get(path(["apps", app, "functions"]), signal), [app]);
  const [name, setName] = useState(null);
  const [input, setInput] = useState("");
  const chosen = name ?? functions.data?.functions[0] ?? "";
  const call = useAction(async () => {
    const began = performance.now();
    const headers = { "Kvasm-Cost": "?1" };
    let response;
    let problem = null;
    try {
      response = await send("POST", path(["apps", app, "call", chosen]), { body: input, headers });
    } catch (error) {
      if (!error.response) throw error;
      problem = error;
      response = error.response;
    }
    const bytes = problem ? null : new Uint8Array(await response.arrayBuffer());
    const requestId = response.headers.get("X-Request-Id");
    return {
      bytes, problem, requestId, status: response.status, took: Math.round(performance.now() - began),
      cost: response.headers.get("Kvasm-Cost"), cpu: response.headers.get("Server-Timing"),
      log: requestId ? await logOf(app, requestId) : [],
    };
  });
  const { done } = call;
  return html`<div>
    <${Refusal} problem=${functions.problem} />
    <form onSubmit=${(event) => { event.preventDefault(); call.start(); }}>
      <${Field} label="Function">${functions.data
        ? html`<select name="function" value=${chosen} onChange=${(event) => setName(event.target.value)}>
          ${functions.data.functions.map((each) => html`<option key=${each} value=${each}>${shown(each)}</option>`)}</select>`
        : html`<input name="function" required value=${chosen} onInput=${(event) => setName(event.target.value)} />`}<//>
      <${Field} label="Input" hint="Sent as it is. Functions mostly read JSON.">
        <textarea name="input" rows="6" spellcheck=${false} value=${input} onInput=${(event) => setInput(event.target.value)}></textarea><//>
      <${HiddenCharacters} text=${input} />
      <p class="buttons"><button type="submit" class="primary" disabled=${call.busy || chosen === ""}>Call</button>
        <span role="status">${call.busy ? "Running …" : ""}</span></p>
    </form>
    <${Refusal} problem=${call.problem} />
    ${done && html`<section aria-label="Answer"><h2>${done.problem ? "Failed" : "Answer"}</h2>
      <${Refusal} problem=${done.problem} />
      ${done.bytes && html`<${Answer} bytes=${done.bytes} />`}
      <${Definitions} rows=${[
        ["Status", done.status],
        ["Time", `${done.took} ms, with the network`],
        done.cpu && ["CPU", html`<code>${done.cpu}</code>`],
        done.cost && ["Cost", html`<code>${done.cost}</code>`],
        ["Request", html`<a href=${link(["apps", app, "logs"], { request: done.requestId })}><code>${done.requestId}</code></a>`],
      ]} />
      ${done.log.length > 0 && html`<h3>Log of the call</h3><${LogTable} app=${app} rows=${done.log} />`}
    </section>`}
    ${functions.data?.http && html`<${HandlerRequest} app=${app} />`}
  </div>`;
}

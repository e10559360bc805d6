// The answer of a call, and its log.

import { path, rowsOf, send } from "./api.js";
import { html } from "./ui.js";
import { Hex, JsonText, download } from "./values.js";
import { size } from "./text.js";

const SHOWN_MAX = 2_000_000;

/** The text of bytes, or `null` if they are none. Text has no NUL. */
function textOf(bytes) {
  if (bytes.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

export async function logOf(app, requestId) {
  try {
    const response = await send("GET", path(["apps", app, "logs"], { request: requestId, limit: 200 }));
    return await rowsOf(response);
  } catch {
    // The token may not have log:read.
    return [];
  }
}

export function Answer({ bytes }) {
  if (bytes.length === 0) return html`<p class="dim">The answer is empty.</p>`;
  const isLong = bytes.length > SHOWN_MAX;
  const text = isLong ? null : textOf(bytes);
  return html`<div class="value">
    ${text === null ? html`<${Hex} bytes=${bytes} />` : html`<${JsonText} text=${text} />`}
    <p class="buttons"><button type="button" onClick=${() => download("answer", bytes)}>Download ${size(bytes.length)}</button></p>
  </div>`;
}

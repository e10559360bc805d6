// Values of entries and events: JSON as a tree, bytes in hexadecimal.

import { html, useState, Text } from "./ui.js";
import { size } from "./text.js";

/** A number that JavaScript cannot hold exactly, as it was written. */
export class Exact {
  constructor(source) {
    this.source = source;
  }
  toJSON() {
    return typeof JSON.rawJSON === "function" ? JSON.rawJSON(this.source) : Number(this.source);
  }
}

// Where there is none of these, every number is exact. A reviver takes 10 times as long.
const INEXACT = /\d{16}|\d[.eE]|-0/;

/** Parses JSON, and keeps all digits of numbers. */
export function parseExact(text) {
  if (!INEXACT.test(text)) return JSON.parse(text);
  try {
    return JSON.parse(text, (_, value, context) => (
      typeof value === "number" && context?.source !== undefined && String(value) !== context.source
        ? new Exact(context.source)
        : value
    ));
  } catch (error) {
    // Too deep for a reviver.
    if (error instanceof RangeError) return JSON.parse(text);
    throw error;
  }
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

export function toBase64(bytes) {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

const PAGE = 100;

function Leaf({ value }) {
  if (value instanceof Exact) return html`<span class="number">${value.source}</span>`;
  if (typeof value === "string") return html`<span class="string">"<${Text} value=${value} block />"</span>`;
  return html`<span class="number">${JSON.stringify(value)}</span>`;
}

function Node({ name, value, depth }) {
  const isTree = value !== null && typeof value === "object" && !(value instanceof Exact);
  const [open, setOpen] = useState(() => depth === 0 || (depth === 1 && isTree && Object.keys(value).length <= 20));
  const [limit, setLimit] = useState(PAGE);
  const label = name === undefined ? null : html`<span class="name"><${Text} value=${name} />: </span>`;
  if (!isTree) return html`<li>${label}<${Leaf} value=${value} /></li>`;
  const isList = Array.isArray(value);
  const names = Object.keys(value);
  const summary = isList ? `[${names.length}]` : `{${names.length}}`;
  return html`<li>
    <button type="button" class="fold" aria-expanded=${open} onClick=${() => setOpen(!open)}>
      <span aria-hidden="true">${open ? "▾" : "▸"} </span>${label}<span class="dim">${summary}</span>
    </button>
    ${open && html`<ul>
      ${names.slice(0, limit).map((key) => html`<${Node} key=${`k${key}`} name=${key} value=${value[key]} depth=${depth + 1} />`)}
      ${names.length > limit && html`<li><button type="button" onClick=${() => setLimit(limit + PAGE)}>
        Show ${Math.min(PAGE, names.length - limit)} more of ${names.length - limit}</button></li>`}
    </ul>`}
  </li>`;
}

/** A parsed JSON value as a tree. Children are made when their parent is opened. */
export function Tree({ value }) {
  return html`<ul class="tree"><${Node} value=${value} depth=${0} /></ul>`;
}

/** JSON text as a tree, or as text if it cannot be parsed. */
export function JsonText({ text }) {
  let value;
  try {
    value = parseExact(text);
  } catch {
    return html`<pre><${Text} value=${text} block /></pre>`;
  }
  return html`<${Tree} value=${value} />`;
}

const ROWS = 64;

/** Bytes in hexadecimal, 16 in a row. */
export function Hex({ bytes }) {
  const [rows, setRows] = useState(ROWS);
  const all = Math.ceil(bytes.length / 16);
  const lines = [];
  for (let row = 0; row < Math.min(rows, all); row += 1) {
    const part = bytes.subarray(row * 16, row * 16 + 16);
    const hex = Array.from(part, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = Array.from(part, (byte) => (byte > 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${(row * 16).toString(16).padStart(6, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return html`<div>
    <p class="dim">${size(bytes.length)}</p>
    <pre class="hex" tabindex="0" aria-label="Bytes in hexadecimal">${lines.join("\n")}</pre>
    ${all > rows && html`<button type="button" onClick=${() => setRows(rows * 4)}>Show more</button>`}
  </div>`;
}

/** Saves bytes or text as a file. */
export function download(name, content) {
  const url = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name.replace(/[^A-Za-z0-9._-]+/g, "_").slice(0, 100) || "value";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

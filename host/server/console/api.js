// The client of the HTTP API. The token is kept in the session storage of the tab.

import { parseExact } from "./values.js";

const KEY = "kvasm-token";
let onRefused = () => {};

export const session = {
  token: () => sessionStorage.getItem(KEY),
  begin: (token) => sessionStorage.setItem(KEY, token),
  end: () => sessionStorage.removeItem(KEY),
  /** Called when the server no longer accepts the token. */
  whenRefused: (callback) => {
    onRefused = callback;
  },
};

/** A refused or failed request. */
export class Problem extends Error {
  constructor(status, body, requestId) {
    super(body.detail ?? body.title ?? `the server answered ${status}`);
    this.status = status;
    this.kind = String(body.type ?? "").replace("urn:kvasm:problem:", "");
    this.title = body.title ?? "Error";
    this.unmet = body.unmet ?? [];
    this.requestId = body.request_id ?? requestId;
  }
}

/** A path from segments and a query. Absent and empty parameters are left out. */
export function path(segments, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = given.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  return `/v1/${segments.map(encodeURIComponent).join("/")}${text.length ? `?${text.join("&")}` : ""}`;
}

const RETRY_MS = 2000;

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
});

/**
 * Reads a stream until the signal, and again each time it ends or fails. Throws when the server refuses
 * for good. `tell` gets the state while there is no connection.
 */
export async function reconnecting(signal, tell, stream) {
  while (!signal.aborted) {
    try {
      await stream();
    } catch (error) {
      if (signal.aborted) return;
      // Refused for good, unless there are only too many streams.
      if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    }
    if (signal.aborted) return;
    tell("waiting to reconnect");
    await pause(RETRY_MS, signal);
  }
}

/** Sends a request and returns the response, or throws a Problem. */
export async function send(method, target, { body, type, headers = {}, signal, token = session.token() } = {}) {
  const all = { ...headers, Authorization: `Bearer ${token}` };
  if (type) all["Content-Type"] = type;
  let response;
  try {
    response = await fetch(target, {
      method, body, signal, headers: all, cache: "no-store", credentials: "omit", redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "No answer", detail: "The server cannot be reached." });
  }
  if (response.ok) return response;
  const text = await response.text();
  const requestId = response.headers.get("X-Request-Id");
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    problem = { detail: text.slice(0, 2000) };
  }
  const refused = new Problem(response.status, problem ?? {}, requestId);
  refused.response = response;
  if (response.status === 401 && token === session.token()) onRefused();
  throw refused;
}

/** Sends a request with JSON, and returns the JSON of the answer. */
export async function json(method, target, value, options = {}) {
  const body = value === undefined ? {} : { body: JSON.stringify(value), type: "application/json" };
  const response = await send(method, target, { ...body, ...options });
  const text = await response.text();
  return text === "" ? null : parseExact(text);
}

export const get = (target, signal) => json("GET", target, undefined, { signal });

/** Reads the lines of a stream of JSON Lines; blank ones keep it alive. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield parts.filter((line) => line !== "").map((line) => JSON.parse(line));
  }
}

/** Reads all rows of a response in JSON Lines. */
export async function rowsOf(response) {
  const rows = [];
  for await (const some of lines(response)) rows.push(...some);
  return rows;
}

// Changes of an app's entries as they are committed: server-sent events over fetch, since an
// EventSource sends no token.

import { Problem, path, reconnecting, send } from "./api.js";

/** The longest event that is kept: more than the largest value. */
const EVENT_MAX = 64 * 1024 * 1024;

function parse(block) {
  const event = { name: "", id: null, data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event.name = line.slice(7);
    else if (line.startsWith("id: ")) event.id = line.slice(4);
    else if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}

/** The events of a stream, those of a chunk at once. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    parts.push(value);
    length += value.length;
    if (length > EVENT_MAX) throw new Problem(413, { title: "Too much at once", detail: "An event is too large for the console." });
    // The end of an event, two line feeds, may be split between two chunks.
    if (!value.includes("\n")) continue;
    const blocks = parts.join("").split("\n\n");
    parts = [blocks.pop()];
    length = parts[0].length;
    yield blocks.map(parse);
  }
}

const ENDS = {
  token: "The token is no longer valid.",
  scope: "The token no longer has the scope script:read.",
  "app-deleted": "The app was deleted.",
};

/**
 * Follows the changes of a collection until the signal: `changed(key, {version, isDeleted})` for each,
 * and `missed()` where changes may be missing, so that what is shown must be read again. Connects again
 * after the last event; throws when the server refuses for good.
 */
export function watch(app, filter, signal, { changed, missed, tell }) {
  let last = null;
  const take = (event) => {
    if (event.name === "ready") {
      tell("live");
      // What has changed between the first read and now.
      if (last === null) missed();
    }
    if (event.name === "gap") missed();
    if (event.name === "end") {
      const { reason } = JSON.parse(event.data);
      if (ENDS[reason]) throw new Problem(410, { title: "The stream has ended", detail: ENDS[reason] });
    }
    if (event.name === "" && event.data !== "") {
      const { subject, type, entryversion } = JSON.parse(event.data);
      changed(subject, { version: entryversion, isDeleted: type === "kvasm.entry.delete" });
    }
    if (event.id !== null) last = event.id;
  };
  return reconnecting(signal, tell, async () => {
    const headers = last === null ? {} : { "Last-Event-ID": last };
    const response = await send("GET", path(["apps", app, "kv", "watch"], filter), { signal, headers });
    for await (const some of events(response)) some.forEach(take);
  });
}

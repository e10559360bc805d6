// Text of others: everything that a reader could not see is written out.

// Controls, format characters (among them those of the writing direction), separators, lone
// surrogates, and all that is usually drawn as nothing.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{DI}]/gu;
const NAMES = { 0: "NUL", 9: "TAB", 10: "LF", 13: "CR", 27: "ESC", 127: "DEL" };

const mark = (char) => {
  const code = char.codePointAt(0);
  return `⟨${NAMES[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`}⟩`;
};

/**
 * Pieces of a text: `{text}` or `{mark}`. In a block, line feeds and tabs stay as they are. After
 * `most` pieces the last one is `{rest}`, the number of characters that are left out: thousands of
 * marks take the browser seconds to draw.
 */
export function pieces(value, block = false, most = Infinity) {
  const text = String(value);
  const found = [];
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (block && (match[0] === "\n" || match[0] === "\t")) continue;
    if (match.index > from) found.push({ text: text.slice(from, match.index) });
    found.push({ mark: mark(match[0]) });
    from = match.index + match[0].length;
    if (found.length >= most && from < text.length) return [...found, { rest: text.length - from }];
  }
  if (from < text.length) found.push({ text: text.slice(from) });
  return found;
}

/** The text with hidden characters written out, for attributes. */
export const shown = (value) => pieces(value).map((piece) => piece.text ?? piece.mark).join("");

/** The number of hidden characters, other than line feeds and tabs. */
export const hidden = (value) => pieces(value, true).filter((piece) => piece.mark).length;

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

export function size(bytes) {
  let unit = 0;
  let amount = Number(bytes);
  while (amount >= 1024 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${unit ? amount.toFixed(1) : amount} ${UNITS[unit]}`;
}

export const count = (number) => Number(number).toLocaleString("en-GB");

/** A time in milliseconds since 1970 as UTC. */
export function time(at) {
  if (at === null || at === undefined) return "–";
  const date = new Date(Number(at));
  if (Number.isNaN(date.getTime())) return String(at);
  return date.toISOString().replace("T", " ").replace(/\.(\d+)Z$/, ".$1");
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${Number(number) === 1 ? one : many}`;
}

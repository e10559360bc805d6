// A transform for asc: it turns the decorators of exported functions into the custom section that
// declares the plugin.
//
//   @transaction export function pay(): i32 { ... }
//
// @callable       can be called by name
// @transaction    the same; its writes take effect together, or not at all
// @http           handles HTTP requests
// @httpTransaction  the same; each request is a transaction
// @onChange(collection, prefix?)  is called after an entry was set or deleted
// @cron(schedule) is called by a schedule of five fields, in UTC
// @onTimer        is called when a timer is due; the function must be named on_timer
//
// Other declarations, of needs, are lines of JSON in comments: //! {"kind":"secret","name":"api-key"}
const SECTION = "kvasm.plugin.v1";

/** Returns the texts of a decorator's arguments, which must be string literals. */
function texts(decorator, [least, most]) {
  const found = (decorator.args || []).map((argument) => argument.value);
  if (found.some((text) => typeof text !== "string"))
    throw new Error(`@${decorator.name.text}: the arguments must be string literals`);
  if (found.length < least || found.length > most)
    throw new Error(`@${decorator.name.text}: expected ${least} to ${most} arguments, found ${found.length}`);
  return found;
}

const DECLARATIONS = {
  callable: (name, decorator) => (texts(decorator, [0, 0]), { kind: "function", name }),
  transaction: (name, decorator) => (texts(decorator, [0, 0]), { kind: "function", name, transaction: true }),
  http: (name, decorator) => (texts(decorator, [0, 0]), { kind: "http", name }),
  httpTransaction: (name, decorator) => (texts(decorator, [0, 0]), { kind: "http", name, transaction: true }),
  onChange: (name, decorator) => {
    const [collection, prefix] = texts(decorator, [1, 2]);
    return { kind: "on_change", name, collection, prefix };
  },
  cron: (name, decorator) => ({ kind: "cron", name, schedule: texts(decorator, [1, 1])[0] }),
  onTimer: (name, decorator) => (texts(decorator, [0, 0]), { kind: "on_timer", name }),
};

export default class KvasmTransform {
  lines = [];

  afterParse(parser) {
    for (const source of parser.sources) {
      if (source.internalPath.startsWith("~lib/")) continue;
      for (const statement of source.statements) {
        for (const decorator of statement.decorators || []) {
          const declare = Object.hasOwn(DECLARATIONS, decorator.name.text) && DECLARATIONS[decorator.name.text];
          if (declare) this.lines.push(JSON.stringify(declare(statement.name.text, decorator)));
        }
      }
      for (const [, need] of source.text.matchAll(/^\/\/! *(\{.*\})\s*$/gm)) {
        this.lines.push(JSON.stringify(JSON.parse(need)));
      }
    }
  }

  afterCompile(module) {
    if (this.lines.length === 0) return;
    const text = this.lines.map((line) => line + "\n").join("");
    module.addCustomSection(SECTION, new TextEncoder().encode(text));
  }
}

// The functions of the SDK plugin (tests/guests/sdk), as a Durable Object of workerd with SQLite
// storage. As by default, a response waits until its writes are on disk.

import { DurableObject } from "cloudflare:workers";

const ACCOUNTS = 20_000;

const key = (number) => String(number).padStart(8, "0");
const random = (below) => Math.floor(Math.random() * below);

export class Peer extends DurableObject {
  constructor(state, env) {
    super(state, env);
    this.state = state;
    this.sql = state.storage.sql;
    for (const name of ["accounts", "numbers"]) {
      this.sql.exec(
        `CREATE TABLE IF NOT EXISTS ${name} (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`,
      );
    }
  }

  read(table, name) {
    const rows = this.sql.exec(`SELECT value FROM ${table} WHERE key = ?`, name).toArray();
    return rows.length === 0 ? 0 : JSON.parse(rows[0].value);
  }

  write(table, name, value) {
    this.sql.exec(
      `INSERT INTO ${table} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
      name,
      JSON.stringify(value),
    );
  }

  fill() {
    this.write("numbers", key(7), 7);
    for (let n = 0; n < ACCOUNTS; n++) this.write("accounts", key(n), 0);
  }

  transfer() {
    const from = random(ACCOUNTS);
    const to = (from + 1 + random(ACCOUNTS - 1)) % ACCOUNTS;
    for (const [account, by] of [[from, -1], [to, 1]]) {
      this.write("accounts", key(account), this.read("accounts", key(account)) + by);
    }
  }

  async fetch(request) {
    switch (new URL(request.url).pathname) {
      case "/noop":
        return new Response("");
      case "/get":
        return new Response(JSON.stringify(this.read("numbers", key(7))));
      case "/set": {
        const number = random(ACCOUNTS);
        this.write("numbers", key(number), number);
        return new Response("");
      }
      case "/transfer":
        this.state.storage.transactionSync(() => this.transfer());
        return new Response("");
      case "/fill":
        this.state.storage.transactionSync(() => this.fill());
        return new Response("");
      default:
        return new Response("unknown", { status: 404 });
    }
  }
}

export default {
  fetch(request, env) {
    return env.PEER.get(env.PEER.idFromName("bench")).fetch(request);
  },
};

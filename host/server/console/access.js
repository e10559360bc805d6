// What the token grants, so that views offer only that.

import { get, path } from "./api.js";

let own = null;

/** Asks the server for the token's scopes. */
export async function loadAccess(signal) {
  own = await get(path(["token"]), signal);
  return own;
}

/** Whether the token has a scope. */
export const may = (scope) => own !== null && own.scopes.includes(scope);

/** Whether the token is for one app only. */
export const isOfOneApp = () => own !== null && own.app !== null && own.app !== undefined;

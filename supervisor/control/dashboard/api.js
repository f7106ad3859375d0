// The daemon's answers. Whoever sits behind the page is known by a cookie and a token, or by sitting at the machine. The
// cookie goes to every port of this host; the token is known to this tab alone, and the one is nothing without the other.

const KEPT = "llmsup-token";
let token = remembered();

function remembered() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return ""; // storage may be forbidden; a token lasts as long as the page then
  }
}

function keep(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEPT, value);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // as above
  }
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Asks one of our own routes, as this page. */
export function ask(path, { headers = {}, ...options } = {}) {
  return fetch(path, { credentials: "same-origin", cache: "no-store", ...options, headers: { "x-llmsup-csrf": token || "1", ...headers } });
}

/** What it said, or why it did not. */
export async function answer(response) {
  const body = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body?.error?.message ?? `HTTP ${response.status}`);
  return body;
}

export async function get(path) {
  return answer(await ask(path, { headers: { accept: "application/json" } }));
}

export async function post(path, headers = {}) {
  return answer(await ask(path, { method: "POST", headers: { accept: "application/json", ...headers } }));
}

export async function logIn(key) {
  keep((await post("login", { authorization: `Bearer ${key}` })).token);
}

export async function logOut() {
  await post("logout");
  keep("");
}

// The daemon's answers. Whoever sits behind the page is known by a cookie, or by sitting at the machine.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(response) {
  const body = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body?.error?.message ?? `HTTP ${response.status}`);
  return body;
}

export async function get(path) {
  return answer(await fetch(path, { headers: { accept: "application/json" }, credentials: "same-origin" }));
}

export async function post(path, headers = {}) {
  return answer(await fetch(path, {
    method: "POST",
    headers: { accept: "application/json", "x-llmsup-csrf": "1", ...headers },
    credentials: "same-origin",
  }));
}

export function logIn(key) {
  return post("login", { authorization: `Bearer ${key}` });
}

export function logOut() {
  return post("logout");
}

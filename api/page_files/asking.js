// What the page asks of the API, by addresses relative to the page: it may stand below a path of somebody's proxy.

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  const answer = await fetch(path, { headers: { "Content-Type": "application/json" }, ...options });
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Problem(answer.status, body.detail ?? answer.statusText);
  return body;
}

/** A new idempotency key; `randomUUID` is not there for a page that came without TLS. */
export function newKey() {
  return `page-${[...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export function change(path, body, key) {
  return ask(path, { method: "POST", body: JSON.stringify({ ...body, idempotency_key: key }) });
}

// What the page asks of the API, by addresses relative to the page: it may stand below a path of somebody's proxy.

class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const LOOKS = 15_000; // Milliseconds that a question may take,
const DEEDS = 60_000; // and what changes something.

/** What the API answers; a `Problem` where it refuses, and another error where it does not answer in time. */
export async function ask(path, options = {}) {
  const signal = AbortSignal.timeout(options.method ? DEEDS : LOOKS);
  const answer = await fetch(path, { headers: { "Content-Type": "application/json" }, signal, ...options });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  // A proxy that cannot reach the API answers for it, and not in JSON.
  const body = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, body.detail ?? `The answer was ${answer.status} ${answer.statusText}`.trim() + ".");
}

/** A new idempotency key; `randomUUID` is not there for a page that came without TLS. */
export function newKey() {
  return `page-${[...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export function change(path, body, key) {
  return ask(path, { method: "POST", body: JSON.stringify({ ...body, idempotency_key: key }) });
}

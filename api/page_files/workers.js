// The workers of runs.

import { ask } from "./asking.js";
import { made, repeat, showHealth, view } from "./view.js";
import { ago, span } from "./words.js";

export function showWorkers() {
  const at = view("workers-view");
  return repeat(async () => {
    await showHealth();
    const { workers, drains } = await ask("v1/workers");
    at("workers").replaceChildren(...workers.map(workerRow));
    at("no-workers").hidden = workers.length > 0;
    const since = (one) => `${one.name} is drained since ${new Date(one.since).toLocaleString()}`;
    at("drains").replaceChildren(...drains.map((one) => made("li", { textContent: since(one) })));
  });
}

function workerRow(one) {
  const state = one.is_gone ? "gone" : one.draining ? "draining" : "taking";
  const cells = [
    one.name, one.host, one.version ?? "–", one.roles?.join(", ") ?? "–", one.lanes?.join(", ") ?? "all",
    `${span(ago(one.since))} ago`, `${span(ago(one.last_seen))} ago`, one.runs ?? "–", one.places ?? "–",
    one.spool_bytes === null ? "–" : `${Math.round(one.spool_bytes / 2 ** 20)} MiB`, state,
  ];
  return made("tr", {}, ...cells.map((textContent) => made("td", { textContent })));
}

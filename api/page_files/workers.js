// The workers of runs.

import { ask } from "./asking.js";
import { chip, figure, made, repeat, row, showHealth, view, when } from "./view.js";
import { ago, clock, day, span } from "./words.js";

export function showWorkers() {
  const at = view("workers-view");
  return repeat(async () => {
    await showHealth();
    const { workers, drains } = await ask("v1/workers");
    at("workers").replaceChildren(...workers.map(workerRow));
    at("no-workers").hidden = workers.length > 0;
    const since = (one) => `${one.name} is drained since ${day(one.since)} (${clock(one.since)})`;
    at("drains").replaceChildren(...drains.map((one) => made("li", { textContent: since(one) })));
  });
}

function workerRow(one) {
  const state = one.is_gone ? "gone" : one.draining ? "draining" : "taking";
  const spool = one.spool_bytes === null ? null : `${Math.round(one.spool_bytes / 2 ** 20)} MiB`;
  return row(one.name, chip(state), one.host, figure(one.runs), figure(one.places), `${span(ago(one.last_seen))} ago`,
    when(one.since), one.lanes?.join(", ") ?? "all", one.roles?.join(", ") ?? "–", one.version ?? "–", figure(spool));
}

// One run: how it is, why, what it prints, what happened.

import { ask, change, newKey } from "./asking.js";
import { isActive, life, quiet } from "./life.js";
import { output } from "./output.js";
import { made, repeat, showHealth, told, view } from "./view.js";

export function showRun(id) {
  const at = view("run-view");
  at("run-title").textContent = `Run ${id}`;
  const printed = output(at, id);
  let explained = "";

  const stopLooking = repeat(async () => {
    await showHealth();
    const run = await ask(`v1/runs/${id}`);
    at("run-state").className = run.status;
    at("run-state").textContent = [run.adapter, run.status + quiet(run), run.error_code, run.error_message].filter(Boolean).join(" · ");
    at("run-life").replaceChildren(run.status === "running" ? life(run) : "");
    at("snooze").hidden = !quiet(run);
    at("cancel").hidden = !isActive(run);
    printed.of(run);
    const state = `${run.status} ${run.epoch} ${run.updated_at} ${run.quiet_at} ${run.snoozed_until}`;
    if (state !== explained) {
      const why = await ask(`v1/runs/${id}/explain`);
      // What is owed is soon sent, and that changes nothing of the run itself.
      explained = why.notices?.some((notice) => notice.state === "owed") ? "" : state;
      at("why").replaceChildren(...why.sentences.slice(1).map((sentence) => made("li", { textContent: sentence })));
      at("events").replaceChildren(...why.events.map(happened));
    }
  });

  at("history-file").href = `v1/runs/${id}/explain`;
  at("history-file").download = `${id}.json`;
  at("snooze").addEventListener("click", async () => {
    await ask(`v1/runs/${id}/snooze`, { method: "POST", body: JSON.stringify({ seconds: 3600 }) }).catch(told);
    at("snooze").hidden = true;
  });
  at("cancel").addEventListener("click", () => at("sure").showModal());
  at("sure").addEventListener("close", async () => {
    if (at("sure").returnValue === "yes") await ask(`v1/runs/${id}/cancel`, { method: "POST" }).catch(told);
  });
  const key = newKey(); // One press that is not answered, and the next, start one run.
  at("again").addEventListener("click", async () => {
    at("again").disabled = true;
    try {
      location.hash = `#/runs/${(await change(`v1/runs/${id}/again`, {}, key)).id}`;
    } catch (problem) {
      at("again").disabled = false;
      told(problem);
    }
  });
  return () => {
    stopLooking();
    printed.leave();
  };
}

function happened(event) {
  const detail = Object.entries(event.detail).filter(([, value]) => value !== null && typeof value !== "object");
  const words = event.kind === "reaped" ? [["as", event.detail.error_code]] : detail;
  return made("li", {},
    made("time", { dateTime: event.at, textContent: new Date(event.at).toLocaleTimeString() }),
    `attempt ${event.attempt}: ${event.kind} ${words.map(([name, value]) => `${name} ${value}`).join(", ")}`);
}

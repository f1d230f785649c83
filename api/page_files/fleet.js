// The fleet at a glance.

import { ask } from "./asking.js";
import { chooser } from "./choosing.js";
import { bars, words } from "./plot.js";
import { made, repeat, showHealth, silence, told, view } from "./view.js";
import { now, span } from "./words.js";

const EVERY_HISTORY = 10_000; // Milliseconds between two looks at the last hour.
const FILTERS = ["status", "label", "adapter", "lane", "error", "since", "text"];
const HOUR = 3_600_000; // Milliseconds.
const PAGES = 25; // Pages that are turned by one press of a button, while none has a run that fits.

export function showFleet() {
  const at = view("fleet-view");
  const kept = new URLSearchParams(location.hash.split("?")[1] ?? "");
  for (const name of FILTERS) at(name).value = kept.get(name) ?? "";
  const choosing = chooser(at);
  let older = [];
  let next = null;
  let isFurther = false; // Whether older runs were asked for.

  const query = (before) => {
    const asked = new URLSearchParams({ limit: "50" });
    for (const name of FILTERS) if (at(name).value && at(name).checkValidity()) asked.set(name, at(name).value);
    if (asked.has("since")) asked.set("since", new Date(now() - asked.get("since") * HOUR).toISOString());
    if (before) asked.set("before", before);
    return `v1/runs?${asked}`;
  };

  const look = async () => {
    const fleet = await showHealth();
    const page = await ask(query());
    const oldest = page.runs.at(-1)?.id;
    if (!isFurther) next = page.next;
    const listed = [...page.runs, ...older.filter((run) => !oldest || run.id < oldest)];
    at("counts").replaceChildren(...counts(fleet.active));
    choosing.show(listed);
    at("no-runs").hidden = listed.length > 0 || next !== null;
    at("further").hidden = listed.length > 0 || next === null;
    at("more").hidden = next === null;
  };

  at("filter").addEventListener("submit", (event) => event.preventDefault());
  at("filter").addEventListener("change", () => {
    const chosen = new URLSearchParams();
    for (const name of FILTERS) if (at(name).value) chosen.set(name, at(name).value);
    location.hash = `#/${chosen.size ? `?${chosen}` : ""}`;
  });
  at("more").addEventListener("click", async () => {
    at("more").disabled = true;
    try {
      for (let turned = 0, found = 0; next && !found && turned < PAGES; turned += 1) {
        const page = await ask(query(next));
        isFurther = true;
        found = page.runs.length;
        older = [...older, ...page.runs];
        next = page.next;
      }
      await look();
    } catch (problem) {
      told(problem);
    }
    at("more").disabled = false;
  });
  const stopLooking = repeat(look);
  const stopPlotting = repeat(async () => {
    const history = await ask("v1/fleet/history");
    const seconds = history.step_seconds * history.started.length;
    const told = words(history, seconds === 3600 ? "hour" : span(seconds));
    at("history").replaceChildren(...bars(history));
    at("history").setAttribute("aria-label", told);
    at("history-words").textContent = told;
  }, EVERY_HISTORY);
  const stopCounting = repeat(async () => {
    const { lanes, rules } = await ask("v1/lanes");
    // A fleet without lanes has all its runs in one, which says nothing.
    at("lanes-section").hidden = !rules.length && lanes.every((lane) => lane.lane === "default");
    at("lanes").replaceChildren(...lanes.map(laneRow));
  }, EVERY_HISTORY);
  return () => {
    stopLooking();
    stopCounting();
    stopPlotting();
  };
}

function counts(active) {
  const sums = new Map([["running", 0], ["queued", 0]]);
  for (const one of active) sums.set(one.status, sums.get(one.status) + one.runs);
  const quietest = Math.max(0, ...active.filter((one) => one.status === "running").map((one) => one.longest_silence_seconds));
  const shown = [...sums].map(([status, runs]) => made("li", { className: status }, made("strong", { textContent: runs }), status));
  shown.push(made("li", {}, made("strong", { textContent: span(quietest) }), `since the oldest sign of life (window ${span(silence())})`));
  return shown;
}

function laneRow(lane) {
  return made("tr", {},
    made("td", { textContent: lane.lane }),
    made("td", { textContent: lane.running + lane.ending }),
    made("td", { textContent: lane.limit ?? "–" }),
    made("td", { textContent: lane.waiting + lane.later }),
    made("td", { textContent: lane.oldest_waiting_seconds === null ? "–" : span(lane.oldest_waiting_seconds) }),
    made("td", { textContent: (lane.waiting && lane.why_waiting) || "" }));
}

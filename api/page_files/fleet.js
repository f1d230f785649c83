// The fleet at a glance.

import { ask } from "./asking.js";
import { chooser } from "./choosing.js";
import { bars, words } from "./plot.js";
import { chip, figure, made, repeat, row, showHealth, silence, told, view } from "./view.js";
import { grouped, now, span } from "./words.js";

const EVERY_HISTORY = 10_000; // Milliseconds between two looks at the last hour.
const FILTERS = ["text", "status", "error", "label", "adapter", "lane", "since", "until", "ended", "sort"];
const OF_RUNNING = ["longest", "silent"]; // Orders of runs that are running: there is one page of them.
const HOUR = 3_600_000; // Milliseconds.
const PAGE = 50; // Runs that are asked for at once,
const ONE_PAGE = 200; // where there is one page,
const MOST = 500; // and that are listed at the most.
const PAGES = 25; // Pages that are turned by one press of a button, while none has a run that fits.
const AN_ID = /^[0-9a-f-]{4,36}$/i; // What may be the end of an id, or its beginning.

export function showFleet() {
  const at = view("fleet-view");
  const kept = new URLSearchParams(location.hash.split("?")[1] ?? "");
  for (const name of FILTERS) {
    at(name).value = kept.get(name) ?? "";
    if (!at(name).checkValidity()) at(name).value = ""; // What is not asked for is not shown as if it were.
  }
  const choosing = chooser(at);
  let older = [];
  let next = null;
  let isFurther = false; // Whether older runs were asked for.
  let isLeft = false;
  let turn = 0; // Counts what was asked for: an answer to what was asked before is none to this.

  const query = (before) => {
    const sort = at("sort").value;
    const asked = new URLSearchParams({ limit: String(OF_RUNNING.includes(sort) ? ONE_PAGE : PAGE) });
    for (const name of FILTERS) if (at(name).value && at(name).checkValidity()) asked.set(name, at(name).value);
    const ago = (name) => asked.has(name) && new Date(now() - asked.get(name) * HOUR).toISOString();
    if (asked.has("since")) asked.set("since", ago("since"));
    if (asked.has("until")) asked.set("until", new Date(asked.get("until")).toISOString());
    if (asked.has("ended")) asked.set("ended_since", ago("ended"));
    asked.delete("ended");
    if (before) asked.set("before", before);
    return `v1/runs?${asked}`;
  };

  const look = async () => {
    const [fleet, asked] = [await showHealth(), turn];
    at("counts").replaceChildren(...counts(fleet));
    const page = await ask(query());
    if (asked !== turn) return;
    if (!isFurther) next = page.next;
    const isOldest = at("sort").value === "oldest";
    const last = page.runs.at(-1)?.id;
    const listed = [...page.runs, ...older.filter((run) => !last || (isOldest ? run.id > last : run.id < last))];
    const isAny = !FILTERS.some((name) => at(name).value);
    const isFull = listed.length >= MOST || (OF_RUNNING.includes(at("sort").value) && listed.length === ONE_PAGE);
    choosing.show(listed.slice(0, MOST));
    at("no-runs").hidden = !isAny || listed.length > 0 || next !== null;
    at("no-fit").hidden = isAny || listed.length > 0 || next !== null;
    at("further").hidden = listed.length > 0 || next === null;
    at("enough").hidden = !isFull;
    at("enough").textContent = `These are the first ${grouped(listed.length)}. Choose by status, time or text to see others.`;
    at("more").hidden = next === null || isFull;
    at("more").textContent = isOldest ? "Newer runs" : "Older runs";
    at("clear").hidden = isAny;
  };
  const looking = repeat(look);

  /** Look for what is asked for now; the view stays, and what has the focus in it. */
  const anew = () => {
    if (isLeft) return; // A field that is taken away tells once more that it was changed.
    if (OF_RUNNING.includes(at("sort").value)) at("status").value = "running";
    const chosen = new URLSearchParams();
    for (const name of FILTERS) if (at(name).value) chosen.set(name, at(name).value);
    history.pushState(null, "", `#/${chosen.size ? `?${chosen}` : ""}`);
    turn += 1;
    older = [];
    next = null;
    isFurther = false;
    looking.now();
  };
  at("filter").addEventListener("submit", (event) => event.preventDefault());
  at("filter").addEventListener("change", (event) => {
    if (!event.target.reportValidity()) return; // The browser says what would do; the list is as it was.
    // A status that has no such order: the newest of it.
    if (event.target === at("status") && OF_RUNNING.includes(at("sort").value)) at("sort").value = "";
    anew();
  });
  at("text").addEventListener("keydown", async (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const run = await onlyRun(at("text").value.trim());
    if (run) location.hash = `#/runs/${run}`;
    else anew();
  });
  at("clear").addEventListener("click", () => {
    for (const name of FILTERS) at(name).value = "";
    at("text").focus();
    anew();
  });
  at("more").addEventListener("click", async () => {
    at("more").disabled = true;
    const asked = turn;
    try {
      for (let turned = 0, found = 0; next && !found && turned < PAGES; turned += 1) {
        const page = await ask(query(next));
        if (asked !== turn) break;
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
  const plotting = repeat(async () => {
    const history = await ask("v1/fleet/history");
    const seconds = history.step_seconds * history.started.length;
    const said = words(history, seconds === 3600 ? "hour" : span(seconds));
    at("history").replaceChildren(...bars(history));
    at("history").setAttribute("aria-label", said);
    at("history-words").textContent = said;
  }, EVERY_HISTORY);
  const counting = repeat(async () => {
    const { lanes, rules } = await ask("v1/lanes");
    // A fleet without lanes has all its runs in one, which says nothing.
    at("lanes-section").hidden = !rules.length && lanes.every((lane) => lane.lane === "default");
    at("lanes").replaceChildren(...lanes.map(laneRow));
  }, EVERY_HISTORY);
  return () => {
    isLeft = true;
    turn += 1;
    looking();
    counting();
    plotting();
  };
}

/** The one run whose id begins or ends with this, if there is one and no other. */
async function onlyRun(text) {
  if (!AN_ID.test(text)) return null;
  const found = await ask(`v1/runs?id=${encodeURIComponent(text)}&limit=2`).catch(() => ({ runs: [] }));
  return found.runs.length === 1 ? found.runs[0].id : null;
}

/** What there is, each with a link to it. */
function counts(fleet) {
  const sum = (status, name = "runs") =>
    fleet.active.filter((one) => one.status === status).reduce((all, one) => all + one[name], 0);
  const running = fleet.active.filter((one) => one.status === "running");
  const quietest = Math.max(0, ...running.map((one) => one.longest_silence_seconds));
  const count = (className, number, what, to) => {
    const words = [made("strong", { textContent: grouped(number) }), made("span", { textContent: what })];
    return made("li", { className: number ? className : "none" }, made("a", { href: `#/?${to}` }, ...words));
  };
  const isLate = quietest > silence() * 0.8;
  return [
    count("running", sum("running"), "running", "status=running"),
    count("queued", sum("queued"), "queued", "status=queued"),
    count("warn", sum("running", "quiet"), "quiet", "status=running&sort=silent"),
    // While releases change, one answers that does not count them.
    fleet.failed_last_hour === undefined ? "" : count("failed", fleet.failed_last_hour, "failed in the last hour", "status=failed&ended=1"),
    fleet.failed_last_day === undefined ? "" : count("failed", fleet.failed_last_day, "failed in the last day", "status=failed&ended=24"),
    made("li", { className: isLate ? "failed" : "none" }, made("a", { href: "#/?status=running&sort=silent" },
      made("strong", { textContent: running.length ? span(quietest) : "–" }),
      made("span", { textContent: `oldest sign of life, of ${span(silence())}` }))),
  ];
}

function laneRow(lane) {
  const state = lane.paused_at ? "paused" : lane.served || !lane.waiting ? "open" : "not served";
  const oldest = lane.oldest_waiting_seconds === null ? null : span(lane.oldest_waiting_seconds);
  const link = made("a", { href: `#/?${new URLSearchParams({ lane: lane.lane })}`, textContent: lane.lane });
  return row(link, chip(state, state.replace(" ", "-")), lane.running + lane.ending, figure(lane.limit),
    lane.waiting + lane.later, figure(oldest), (lane.waiting && lane.why_waiting) || "");
}

// The page: the fleet at a glance, and one run with its output as it comes. Everything it shows is asked of the API.

import { LogView } from "./log.js";
import { bars, words } from "./plot.js";

const EVERY = 2000; // Milliseconds between two looks …
const EVERY_HISTORY = 10_000; // … and between two looks at the last hour.
const main = document.getElementById("main");
let leaveView = () => {};
let clock = 0; // What the database's clock is ahead of ours, in milliseconds.
let windowSeconds = 300;

class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { headers: { "Content-Type": "application/json" }, ...options });
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Problem(answer.status, body.detail ?? answer.statusText);
  return body;
}

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function view(name) {
  main.replaceChildren(document.getElementById(name).content.cloneNode(true));
  return (id) => document.getElementById(id);
}

/** Look now, and again and again while the page can be seen, until the view is left. */
function repeat(look, every = EVERY) {
  let timer = 0;
  let left = false;
  const turn = async () => {
    if (left) return;
    try {
      if (!document.hidden) await look();
    } catch (problem) {
      if (!left) told(problem);
    }
    if (!left) timer = setTimeout(turn, every);
  };
  turn();
  return () => {
    left = true;
    clearTimeout(timer);
  };
}

function told(problem) {
  if (problem.status === 401) return askForToken();
  if (problem.status === 404) return showProblem(problem.message);
  const health = document.getElementById("health");
  health.className = "ill";
  health.textContent = problem.status ? problem.message : "The API does not answer; trying again …";
  return undefined;
}

function showProblem(sentence) {
  leaveView();
  leaveView = () => {};
  view("problem-view")("problem").textContent = sentence;
}

function askForToken() {
  leaveView();
  leaveView = () => {};
  const at = view("token-view");
  document.getElementById("health").textContent = "";
  at("token").focus();
  at("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask("/session", { method: "POST", body: JSON.stringify({ token: at("token").value }) });
      show();
    } catch (problem) {
      at("token-problem").textContent = problem.message;
    }
  });
}

// -- words

function span(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (hours < 1) return both(minutes, "min", Math.floor(seconds % 60), "s");
  return hours < 48 ? both(hours, "h", minutes % 60, "min") : `${Math.floor(hours / 24)} days`;
}

function both(large, itsUnit, small, unit) {
  return `${large} ${itsUnit}${small ? ` ${small} ${unit}` : ""}`;
}

function ago(moment) {
  return (Date.now() + clock - Date.parse(moment)) / 1000;
}

function short(id) {
  return id.slice(id.lastIndexOf("-") + 1);
}

/** A bar: how old the last proof of life is, against the window. */
function life(run) {
  if (run.status !== "running") return made("span", { textContent: "–" });
  const age = ago(run.updated_at);
  const words = `${span(age)} ago, by ${run.last_proof}`;
  const bar = made("progress", { max: windowSeconds, value: Math.min(Math.max(age, 0), windowSeconds) });
  bar.setAttribute("aria-label", `Last sign of life ${words}; the window is ${span(windowSeconds)}`);
  return made("span", { className: `life${age > windowSeconds * 0.8 ? " old" : ""}` }, bar, made("span", { textContent: words }));
}

/** Marked where a run that lives gives no output. */
function quiet(run) {
  return run.status === "running" && run.quiet_at ? `, quiet ${span(ago(run.output_at ?? run.started_at))}` : "";
}

async function showHealth() {
  const fleet = await ask("/v1/fleet");
  clock = Date.parse(fleet.now) - Date.now();
  windowSeconds = fleet.window_seconds;
  const { healthy, reasons, sweep_age_seconds: age, canary_age_seconds: lag, last_report: report } = fleet.health;
  const health = document.getElementById("health");
  health.className = healthy ? "well" : "ill";
  const judged = report?.judgements ?? {};
  const doing = [
    judged.spare_warming_up ? "The reaper is warming up" : "",
    judged.spare_lagging ? "The reaper listens for the log pipeline" : "",
    judged.spare_braked ? `The reaper brakes: ${judged.spare_braked} convictions are put off` : "",
  ].filter(Boolean);
  health.textContent = healthy
    ? [`Last sweep ${span(age)} ago; output is at most ${span(lag)} late`, ...doing].join(". ") + "."
    : reasons.join(" ");
  return fleet;
}

/** A new idempotency key; `randomUUID` is not there for a page that came without TLS. */
function newKey() {
  return `page-${[...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function change(path, body, key) {
  return ask(path, { method: "POST", body: JSON.stringify({ ...body, idempotency_key: key }) });
}

// -- the fleet

const FILTERS = ["status", "label", "adapter", "lane", "error", "since", "text"];
const HOUR = 3_600_000; // Milliseconds.
const PAGES = 25; // Pages that are turned by one press of a button, while none has a run that fits.

function showFleet() {
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
    if (asked.has("since")) asked.set("since", new Date(Date.now() + clock - asked.get("since") * HOUR).toISOString());
    if (before) asked.set("before", before);
    return `/v1/runs?${asked}`;
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
    const history = await ask("/v1/fleet/history");
    const seconds = history.step_seconds * history.started.length;
    const told = words(history, seconds === 3600 ? "hour" : span(seconds));
    at("history").replaceChildren(...bars(history));
    at("history").setAttribute("aria-label", told);
    at("history-words").textContent = told;
  }, EVERY_HISTORY);
  const stopCounting = repeat(async () => {
    const { lanes, rules } = await ask("/v1/lanes");
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

/** The table of runs, with a box for each, and what is done to those that are chosen. */
function chooser(at) {
  const chosen = new Set();
  let listed = [];
  let asked = { deed: null, runs: [], key: "" }; // If it fails, the same is asked for with the same key.

  const show = (runs = listed) => {
    listed = runs;
    for (const id of [...chosen]) if (!listed.some((run) => run.id === id)) chosen.delete(id);
    const held = document.activeElement?.dataset?.held;
    at("runs").replaceChildren(...listed.map((run) => runRow(run, chosen.has(run.id))));
    if (held) at("runs").querySelector(`[data-held="${held}"]`)?.focus();
    at("all").checked = chosen.size > 0 && chosen.size === listed.length;
    at("all").indeterminate = chosen.size > 0 && chosen.size < listed.length;
    const runsOf = (isFit) => listed.filter((run) => chosen.has(run.id) && isFit(run)).length;
    const [active, over] = [runsOf(isActive), runsOf((run) => !isActive(run))];
    at("cancel-chosen").hidden = !active;
    at("cancel-chosen").textContent = `Cancel ${many(active)}`;
    at("again-chosen").hidden = !over;
    at("again-chosen").textContent = `Do ${many(over)} again`;
  };
  const choose = (ids, isChosen) => {
    for (const id of ids) chosen[isChosen ? "add" : "delete"](id);
    show();
  };
  const sure = (what, title, words) => {
    const runs = [...chosen];
    if (asked.deed !== what || String(asked.runs) !== String(runs)) asked = { deed: what, runs, key: newKey() };
    at("sure-title").textContent = `${title}?`;
    at("sure-words").textContent = words;
    at("sure-yes").textContent = title;
    at("sure-yes").className = what === "cancel" ? "danger" : "";
    at("sure").returnValue = "no";
    at("sure").showModal();
  };
  at("runs").addEventListener("change", (event) => choose([event.target.value], event.target.checked));
  at("all").addEventListener("change", () => choose(listed.map((run) => run.id), at("all").checked));
  at("cancel-chosen").addEventListener("click", () =>
    sure("cancel", at("cancel-chosen").textContent, "Their work is ended, and cannot be taken up again."));
  at("again-chosen").addEventListener("click", () =>
    sure("again", at("again-chosen").textContent, "A new run is started for each of them."));
  at("sure").addEventListener("close", async () => {
    if (at("sure").returnValue !== "yes") return;
    try {
      const { runs } = await change(`/v1/runs/${asked.deed}`, { runs: asked.runs }, asked.key);
      at("done").textContent = `${many(runs.length)} ${asked.deed === "cancel" ? "cancelled" : "started"}.`;
      choose(asked.runs, false);
      asked = { deed: null, runs: [], key: "" };
    } catch (problem) {
      told(problem);
    }
  });
  return { show };
}

function many(count) {
  return count === 1 ? "1 run" : `${count} runs`;
}

function isActive(run) {
  return ["queued", "running"].includes(run.status);
}

function counts(active) {
  const sums = new Map([["running", 0], ["queued", 0]]);
  for (const one of active) sums.set(one.status, sums.get(one.status) + one.runs);
  const quietest = Math.max(0, ...active.filter((one) => one.status === "running").map((one) => one.longest_silence_seconds));
  const shown = [...sums].map(([status, runs]) => made("li", { className: status }, made("strong", { textContent: runs }), status));
  shown.push(made("li", {}, made("strong", { textContent: span(quietest) }), `since the oldest sign of life (window ${span(windowSeconds)})`));
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

function runRow(run, isChosen) {
  const labels = Object.entries(run.labels).map(([name, value]) => `${name}=${value}`).join(" ");
  const late = run.attempts.some((one) => one.late_output_at || one.late_result_at) ? " (gave signs of life later)" : "";
  const box = made("input", { type: "checkbox", value: run.id, checked: isChosen });
  box.setAttribute("aria-label", `Choose ${short(run.id)}`);
  const link = made("a", { href: `#/runs/${run.id}`, textContent: short(run.id), title: run.id });
  box.dataset.held = `box ${run.id}`; // By which the focus is found again when the rows are made anew.
  link.dataset.held = `link ${run.id}`;
  return made("tr", {},
    made("td", {}, box),
    made("td", {}, link),
    made("td", { textContent: run.adapter }),
    made("td", { className: run.status, textContent: run.status + (run.error_code ? `: ${run.error_code}${late}` : quiet(run)) }),
    made("td", { textContent: `${run.attempt}/${run.max_attempts}` }),
    made("td", {}, life(run)),
    made("td", { textContent: labels }),
    made("td", { textContent: run.started_at ? `${span(ago(run.started_at))} ago` : "–" }));
}

// -- the workers

function showWorkers() {
  const at = view("workers-view");
  return repeat(async () => {
    await showHealth();
    const { workers, drains } = await ask("/v1/workers");
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

// -- a run

function showRun(id) {
  const at = view("run-view");
  at("run-title").textContent = `Run ${id}`;
  const log = new LogView(at("log"), at("lines"));
  const stopReading = read(id, log, at("log-state"));
  let explained = "";

  const stopLooking = repeat(async () => {
    await showHealth();
    const run = await ask(`/v1/runs/${id}`);
    at("run-state").className = run.status;
    at("run-state").textContent = [run.adapter, run.status + quiet(run), run.error_code, run.error_message].filter(Boolean).join(" · ");
    at("run-life").replaceChildren(run.status === "running" ? life(run) : "");
    at("snooze").hidden = !quiet(run);
    at("cancel").hidden = !isActive(run);
    at("downloads").replaceChildren(...downloads(run));
    const state = `${run.status} ${run.epoch} ${run.updated_at} ${run.quiet_at} ${run.snoozed_until}`;
    if (state !== explained) {
      const why = await ask(`/v1/runs/${id}/explain`);
      // What is owed is soon sent, and that changes nothing of the run itself.
      explained = why.notices?.some((notice) => notice.state === "owed") ? "" : state;
      at("why").replaceChildren(...why.sentences.slice(1).map((sentence) => made("li", { textContent: sentence })));
      at("events").replaceChildren(...why.events.map(happened));
    }
  });

  at("snooze").addEventListener("click", async () => {
    await ask(`/v1/runs/${id}/snooze`, { method: "POST", body: JSON.stringify({ seconds: 3600 }) }).catch(told);
    at("snooze").hidden = true;
  });
  at("cancel").addEventListener("click", () => at("sure").showModal());
  at("sure").addEventListener("close", async () => {
    if (at("sure").returnValue === "yes") await ask(`/v1/runs/${id}/cancel`, { method: "POST" }).catch(told);
  });
  const key = newKey(); // One press that is not answered, and the next, start one run.
  at("again").addEventListener("click", async () => {
    at("again").disabled = true;
    try {
      location.hash = `#/runs/${(await change(`/v1/runs/${id}/again`, {}, key)).id}`;
    } catch (problem) {
      at("again").disabled = false;
      told(problem);
    }
  });
  at("pause").addEventListener("click", () => {
    const paused = at("pause").getAttribute("aria-pressed") !== "true";
    at("pause").setAttribute("aria-pressed", String(paused));
    at("pause").textContent = paused ? "Go on" : "Pause";
    log.pause(paused);
  });
  at("end").addEventListener("click", () => log.toEnd());
  const search = () => {
    const words = at("search").value;
    if (words) at("log-state").textContent = log.find(words) ? "" : `“${words}” is not in it.`;
  };
  at("next").addEventListener("click", search);
  at("search").addEventListener("keydown", (event) => event.key === "Enter" && search());
  return () => {
    stopLooking();
    stopReading();
    log.close();
  };
}

function downloads(run) {
  const streams = run.attempt ? ["stdout", "stderr"] : [];
  const files = [
    ...streams.map((stream) => [`/v1/runs/${run.id}/attempts/${run.attempt}/output/${stream}?told=true`, `${run.id}-${run.attempt}-${stream}.txt`, stream]),
    [`/v1/runs/${run.id}/explain`, `${run.id}.json`, "the history"],
  ];
  return files.flatMap(([href, download, what]) => [made("a", { href, download, textContent: `Download ${what}` }), " "]);
}

function happened(event) {
  const detail = Object.entries(event.detail).filter(([, value]) => value !== null && typeof value !== "object");
  const words = event.kind === "reaped" ? [["as", event.detail.error_code]] : detail;
  return made("li", {},
    made("time", { dateTime: event.at, textContent: new Date(event.at).toLocaleTimeString() }),
    `attempt ${event.attempt}: ${event.kind} ${words.map(([name, value]) => `${name} ${value}`).join(", ")}`);
}

/** Why chunks cannot be read, as models/gaps.py has it. */
const WHY = {
  late: "are late, and on their way",
  missing: "are missing",
  lost: "are lost: they were stored, and cannot be read any more",
  removed: "were removed (retention)",
};

/** The output as it comes. A browser comes back by itself after a cut; where it gives up, we come back for it. */
function read(id, log, state) {
  let source;
  let timer = 0;
  let place = "1:0";
  let attempt = 1;
  const open = () => {
    const [number, after] = place.split(":");
    source = new EventSource(`/v1/runs/${id}/log/live?attempt=${number}&after=${after}`);
    source.addEventListener("open", () => { state.textContent = ""; });
    source.addEventListener("output", (event) => {
      const data = JSON.parse(event.data);
      if (data.attempt !== attempt) log.tell(`— attempt ${data.attempt} —`);
      attempt = data.attempt;
      place = event.lastEventId;
      log.add(data.chunks);
    });
    source.addEventListener("gap", (event) => {
      const data = JSON.parse(event.data);
      place = event.lastEventId;
      log.tell(`— chunks ${data.first} to ${data.last} ${WHY[data.why] ?? "are missing"} —`);
    });
    source.addEventListener("unavailable", (event) => {
      state.textContent = JSON.parse(event.data).detail;
    });
    source.addEventListener("end", () => {
      source.close();
      state.textContent = "This is all of it.";
    });
    source.addEventListener("error", () => {
      state.textContent = "Cut off; coming back …";
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, EVERY);
    });
  };
  open();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}

// -- where we are

function show() {
  leaveView();
  ask("/session").then(({ kept }) => { document.getElementById("leave").hidden = !kept; }).catch(() => {});
  const run = /^#\/runs\/([0-9a-f-]{36})$/.exec(location.hash);
  const workers = location.hash === "#/workers";
  leaveView = run ? showRun(run[1]) : workers ? showWorkers() : showFleet();
  document.title = run ? `Run ${short(run[1])} – Reprieve` : workers ? "Workers – Reprieve" : "Reprieve";
}

document.getElementById("leave").addEventListener("click", async () => {
  await fetch("/session", { method: "DELETE" });
  show();
});
addEventListener("hashchange", () => {
  show();
  main.focus();
});
show();

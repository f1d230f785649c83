// One run: what became of it and why, what it runs, its attempts, what it prints, what happened.

import { ask, change, newKey } from "./asking.js";
import { facts } from "./facts.js";
import { isActive, quiet } from "./life.js";
import { output } from "./output.js";
import { drawn } from "./timeline.js";
import { pictured, words } from "./used.js";
import { made, put, repeat, showHealth, told, view, when } from "./view.js";

const EVERY_WHY = 10_000; // Milliseconds after which sentences that speak of the time are asked for again, …
const EVERY_SAMPLE = 20_000; // … and between two looks at what it uses: a worker looks as often.

export function showRun(id) {
  const at = view("run-view");
  at("run-title").textContent = `Run ${id}`;
  const printed = output(at, id);
  let explained = "";
  let explainedAt = 0;
  let why = null;
  let run = null;
  let toldOf = "";

  const stopLooking = repeat(async () => {
    await showHealth();
    run = await ask(`v1/runs/${id}`);
    at("snooze").hidden = !quiet(run);
    at("cancel").hidden = !isActive(run);
    at("broke").hidden = run.status !== "failed" || !run.attempt;
    at("facts").replaceChildren(...facts(run).map(([name, value]) => made("div", {}, made("dt", { textContent: name }), made("dd", {}, value))));
    printed.of(run);
    const state = `${run.status} ${run.epoch} ${run.updated_at} ${run.quiet_at} ${run.snoozed_until}`;
    if (state !== explained || (isActive(run) && Date.now() > explainedAt + EVERY_WHY)) {
      explainedAt = Date.now();
      why = await ask(`v1/runs/${id}/explain`);
      // What is owed is soon sent, and that changes nothing of the run itself.
      explained = why.notices?.some((notice) => notice.state === "owed") ? "" : state;
      say(why, run.status);
    }
    at("attempts").replaceChildren(...drawn(run, why.events));
  });

  const say = (told_, status) => {
    // Of what goes well, or went well, nobody asks why.
    if (status !== toldOf) at("why-all").open = !["running", "succeeded"].includes(status);
    toldOf = status;
    at("run-why").className = status;
    put(at("run-why"), told_.why);
    at("run-next").hidden = !told_.next;
    put(at("run-next"), told_.next);
    // The first names the run; the cause and where to look next stand above.
    const rest = told_.sentences.slice(1).filter((sentence) => ![told_.why, told_.next].includes(sentence));
    at("why").replaceChildren(...rest.map((sentence) => made("li", { textContent: sentence })));
    at("events").replaceChildren(...told_.events.map(happened));
  };

  const stopPlotting = repeat(async () => {
    if (!run?.attempt) return;
    const { samples } = await ask(`v1/runs/${id}/attempts/${run.attempt}/samples`).catch((problem) => {
      if (problem.status) return { samples: [] }; // Whatever is the matter with it, the run is shown without.
      throw problem;
    });
    at("used").hidden = samples.length < 2;
    if (at("used").hidden) return;
    at("used-picture").replaceChildren(...pictured(samples));
    at("used-words").textContent = words(samples);
    at("used-picture").setAttribute("aria-label", words(samples));
  }, EVERY_SAMPLE);

  showWhatRuns(at, id);
  at("history-file").href = `v1/runs/${id}/explain`;
  at("history-file").download = `${id}.json`;
  at("snooze").addEventListener("click", async () => {
    await ask(`v1/runs/${id}/snooze`, { method: "POST", body: JSON.stringify({ seconds: 3600 }) }).catch(told);
    at("snooze").hidden = true;
  });
  at("broke").addEventListener("click", () => printed.toBroken());
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
    stopPlotting();
    printed.leave();
  };
}

/** What it runs, for those who may run it themselves. */
async function showWhatRuns(at, id) {
  let asked;
  try {
    asked = await ask(`v1/runs/${id}/request`);
  } catch {
    return; // It is not for everybody; and whatever else is the matter, the view says anyhow.
  }
  at("run-what").hidden = !asked.what;
  put(at("run-what").firstElementChild, asked.what);
  put(at("config"), JSON.stringify(asked.config, null, 2));
  at("asked").hidden = false;
}

function happened(event) {
  const detail = Object.entries(event.detail).filter(([, value]) => value !== null && typeof value !== "object");
  const said = event.kind === "reaped" ? [["as", event.detail.error_code]] : detail;
  return made("li", {}, when(event.at),
    ` attempt ${event.attempt}: ${event.kind} ${said.map(([name, value]) => `${name} ${value}`).join(", ")}`);
}

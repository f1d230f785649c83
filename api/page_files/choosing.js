// The table of runs, with a box for each, and what is done to those that are chosen.

import { change, newKey } from "./asking.js";
import { began, isActive, life, progress, state, took } from "./life.js";
import { figure, labels, made, told, when } from "./view.js";
import { many, short, span } from "./words.js";

/** The table of runs, with a box for each, and what is done to those that are chosen. */
export function chooser(at) {
  const chosen = new Set();
  const rowsOf = rows();
  let listed = [];
  let asked = { deed: null, runs: [], key: "" }; // If it fails, the same is asked for with the same key.

  const show = (runs = listed) => {
    listed = runs;
    for (const id of [...chosen]) if (!listed.some((run) => run.id === id)) chosen.delete(id);
    const held = document.activeElement?.dataset?.held;
    at("runs").replaceChildren(...rowsOf(listed, chosen));
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
      const { runs } = await change(`v1/runs/${asked.deed}`, { runs: asked.runs }, asked.key);
      at("done").textContent = `${many(runs.length)} ${asked.deed === "cancel" ? "cancelled" : "started"}.`;
      choose(asked.runs, false);
      asked = { deed: null, runs: [], key: "" };
    } catch (problem) {
      told(problem);
    }
  });
  return { show };
}

/** The rows as they are shown: a run that has not changed, and does not live, keeps its row. */
function rows() {
  let known = new Map();
  return (runs, chosen) => {
    const today = new Date().toDateString();
    const shown = new Map();
    for (const run of runs) {
      const said = today + JSON.stringify(run);
      const before = known.get(run.id);
      const element = before?.said === said && !isActive(run) ? before.element : runRow(run);
      element.querySelector("input").checked = chosen.has(run.id);
      element.classList.toggle("chosen", chosen.has(run.id));
      shown.set(run.id, { said, element });
    }
    known = shown;
    return [...shown.values()].map((one) => one.element);
  };
}

function runRow(run) {
  const box = made("input", { type: "checkbox", value: run.id });
  box.setAttribute("aria-label", `Choose ${short(run.id)}`);
  const link = made("a", { href: `#/runs/${run.id}`, textContent: short(run.id), title: run.id, className: "id" });
  box.dataset.held = `box ${run.id}`; // By which the focus is found again when the rows are made anew.
  link.dataset.held = `link ${run.id}`;
  const late = run.attempts.some((one) => one.late_output_at || one.late_result_at) ? " (gave signs of life later)" : "";
  const error = run.error_code ? made("span", { className: "error", textContent: run.error_code + late, title: run.error_message ?? "" }) : "";
  const [start, seconds] = [began(run), took(run)];
  return made("tr", {},
    made("td", {}, box),
    made("td", {}, link),
    made("td", {}, state(run), error && " ", error),
    made("td", { className: "about" }, ...about(run)),
    made("td", { textContent: run.adapter }),
    made("td", {}, figure(`${run.attempt}/${run.max_attempts}`)),
    made("td", {}, start ? when(start) : run.not_before ? made("span", {}, "not before ", when(run.not_before)) : "–"),
    made("td", {}, figure(seconds === null ? null : span(seconds))),
    made("td", {}, run.status === "running" ? life(run) : when(run.finished_at)));
}

/** Its labels, who asked for it, and what it says of itself. */
function about(run) {
  const lane = run.lane === "default" ? [] : [made("span", { className: "label lane", textContent: `lane ${run.lane}` })];
  const asked = run.asked_by ? [made("span", { className: "by", textContent: `by ${run.asked_by}` })] : [];
  const said = progress(run);
  const words = run.error_message ?? run.report?.sentence; // Of what has failed, why.
  if (words) said.push(made("span", { className: "sentence", textContent: words, title: words }));
  const parts = [...lane, ...labels(run), ...asked].flatMap((one) => [one, " "]);
  return said.length ? [...parts, made("div", { className: "said" }, ...said)] : parts;
}

// The table of runs, with a box for each, and what is done to those that are chosen.

import { change, newKey } from "./asking.js";
import { isActive, life, quiet } from "./life.js";
import { made, told } from "./view.js";
import { ago, many, short, span } from "./words.js";

/** The table of runs, with a box for each, and what is done to those that are chosen. */
export function chooser(at) {
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

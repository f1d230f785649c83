// What all views share: an element made, a view shown, a look that is repeated, the health, what went wrong.

import { ask } from "./asking.js";
import { setClock, span } from "./words.js";

const EVERY = 2000; // Milliseconds between two looks.
const main = document.getElementById("main");
let leaveView = () => {};
let showAgain = () => {};
let windowSeconds = 300;

/** The silence that is death, in seconds. */
export function silence() {
  return windowSeconds;
}

/** Leave the view that is shown, and show the one of the address; `show` returns how it is left. */
export function route(show) {
  showAgain = () => {
    leaveView();
    leaveView = show();
  };
  showAgain();
}

export function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function view(name) {
  main.replaceChildren(document.getElementById(name).content.cloneNode(true));
  return (id) => document.getElementById(id);
}

/** Look now, and again and again while the page can be seen, until the view is left. */
export function repeat(look, every = EVERY) {
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

export function told(problem) {
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
      await ask("session", { method: "POST", body: JSON.stringify({ token: at("token").value }) });
      showAgain();
    } catch (problem) {
      at("token-problem").textContent = problem.message;
    }
  });
}

export async function showHealth() {
  const fleet = await ask("v1/fleet");
  setClock(fleet.now);
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

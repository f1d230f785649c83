// What all views share: an element made, a view shown, a look that is repeated, the health, what went wrong.

import { ask } from "./asking.js";
import { clock, day, exact, grouped, setClock, shown, span } from "./words.js";

const EVERY = 2000; // Milliseconds between two looks.
const OLD = 7000; // Milliseconds after which what is shown is called old: three looks in vain.
const main = document.getElementById("main");
const health = document.getElementById("health");
const aloud = document.getElementById("health-aloud");
const asOf = document.getElementById("as-of");
const refusal = document.getElementById("refusal");
let saidLast = "";
let answeredAt = null; // By this machine's clock, in milliseconds.
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

/** An element; the text in it, beside it and below the pointer does nothing, whoever it is from. */
export function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const name of ["textContent", "title"]) if (name in properties) element[name] = shown(properties[name] ?? "");
  element.append(...children.map((child) => (child instanceof Node ? child : shown(child))));
  return element;
}

/** The text of an element that is there already, likewise. */
export function put(element, text) {
  element.textContent = shown(text ?? "");
}

/**
 * Show a view; returns its elements by their ids. They are those of this view and of no later one: what was asked for here
 * may be answered when another run is shown, and is not shown as that of the other.
 */
export function view(name) {
  const content = document.getElementById(name).content.cloneNode(true);
  const elements = new Map([...content.querySelectorAll("[id]")].map((element) => [element.id, element]));
  main.replaceChildren(content);
  return (id) => elements.get(id);
}

/** A row of a table, of texts, numbers and elements. */
export function row(...cells) {
  return made("tr", {}, ...cells.map((cell) => made("td", {}, typeof cell === "number" ? figure(cell) : cell)));
}

/** What stands in a column of numbers: a number, or words for one; a dash for none. */
export function figure(value) {
  return made("span", { className: "figure", textContent: typeof value === "number" ? grouped(value) : value ?? "–" });
}

/** A moment, in milliseconds or as the API writes it, exact when it is pointed at; a dash for none. */
export function when(moment) {
  if (!moment) return "–";
  return made("time", { dateTime: new Date(moment).toISOString(), title: exact(moment), textContent: day(moment) });
}

/** A state as a word with its sign and colour. */
export function chip(state, className = state) {
  return made("span", { className: `chip ${className}`, textContent: state });
}

/** The labels of a run. */
export function labels(run) {
  const words = Object.entries(run.labels).map(([name, value]) => `${name}=${value}`);
  return words.map((one) => made("span", { className: "label", textContent: one, title: one }));
}

/**
 * Look now, and again and again while the page can be seen, until the view is left: returns how that is said, and, as its
 * `now`, how one looks at once.
 */
export function repeat(look, every = EVERY) {
  let timer = 0;
  let left = false;
  let isLooking = false;
  let isWanted = false; // Whether another look was asked for meanwhile.
  const turn = async () => {
    if (left || document.hidden) return;
    if (isLooking) {
      isWanted = true;
      return;
    }
    clearTimeout(timer);
    isLooking = true;
    isWanted = false;
    try {
      await look();
    } catch (problem) {
      if (!left) unanswered(problem);
    }
    isLooking = false;
    if (!left) timer = setTimeout(turn, isWanted ? 0 : every);
  };
  document.addEventListener("visibilitychange", turn);
  turn();
  const leave = () => {
    left = true;
    document.removeEventListener("visibilitychange", turn);
    clearTimeout(timer);
  };
  leave.now = turn;
  return leave;
}

/** Something that was asked for was refused, or did not come about: it stays until somebody has read it. */
export function told(problem) {
  if (problem.status === 401) return askForToken();
  refusal.hidden = false;
  put(refusal.querySelector("p"), problem.status ? problem.message : "The API did not answer; it may be done, or not.");
  return undefined;
}

refusal.querySelector("button").addEventListener("click", () => {
  refusal.hidden = true;
  main.focus();
});

/** A look at the API was in vain; the next one may not be. */
function unanswered(problem) {
  if (problem.status === 401) return askForToken();
  if (problem.status === 404) return showProblem(problem.message);
  said("ill", problem.status ? problem.message : "The API does not answer; trying again …");
  return undefined;
}

/** Says how the fleet is; a reader of screens hears of it where that changes, and not of each second. */
function said(className, words, key = words) {
  health.className = className;
  put(health, words);
  if (key === saidLast) return;
  saidLast = key;
  put(aloud, words);
}

/** What is shown is not true any more, perhaps: it says from when it is, and turns grey. */
function mark() {
  const isOld = answeredAt !== null && Date.now() - answeredAt > OLD;
  document.body.classList.toggle("old", isOld);
  asOf.hidden = !isOld;
  if (isOld) asOf.textContent = `As of ${clock(answeredAt)}; no answer since.`;
}
setInterval(mark, 1000);
document.addEventListener("visibilitychange", mark);

function showProblem(sentence) {
  leaveView();
  leaveView = () => {};
  put(view("problem-view")("problem"), sentence);
}

function askForToken() {
  leaveView();
  leaveView = () => {};
  answeredAt = null; // Nothing is shown that could be old.
  mark();
  const at = view("token-view");
  said("", "");
  at("token").focus();
  at("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask("session", { method: "POST", body: JSON.stringify({ token: at("token").value }) });
      showAgain();
    } catch (problem) {
      put(at("token-problem"), problem.status ? problem.message : "The API does not answer.");
    }
  });
}

export async function showHealth() {
  const fleet = await ask("v1/fleet");
  setClock(fleet.now);
  answeredAt = Date.now();
  mark();
  windowSeconds = fleet.window_seconds;
  const { healthy, reasons, sweep_age_seconds: age, canary_age_seconds: lag, last_report: report } = fleet.health;
  const judged = report?.judgements ?? {};
  const doing = [
    judged.spare_warming_up ? "The reaper is warming up" : "",
    judged.spare_lagging ? "The reaper listens for the log pipeline" : "",
    judged.spare_braked ? `The reaper brakes: ${judged.spare_braked} convictions are put off` : "",
  ].filter(Boolean);
  const well = [`Last sweep ${span(age)} ago; output is at most ${span(lag)} late`, ...doing].join(". ");
  if (healthy) said("well", `${well}.`, ["All is well", ...doing].join(". "));
  else said("ill", reasons.join(" "));
  return fleet;
}

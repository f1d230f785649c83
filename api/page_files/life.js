// How a run lives: how old its last sign of life is, against the window.

import { chip, made, silence } from "./view.js";
import { ago, percent, span } from "./words.js";

/** A bar: how old the last proof of life is, against the window. */
export function life(run) {
  if (run.status !== "running") return made("span", { textContent: "–" });
  const age = ago(run.updated_at);
  const words = `${span(age)} ago, by ${run.last_proof}`;
  const bar = made("progress", { max: silence(), value: Math.min(Math.max(age, 0), silence()) });
  bar.setAttribute("aria-label", `Last sign of life ${words}; the window is ${span(silence())}`);
  return made("span", { className: `life${age > silence() * 0.8 ? " old" : ""}` }, bar, made("span", { textContent: words }));
}

/** Marked where a run that lives gives no output. */
export function quiet(run) {
  return run.status === "running" && run.quiet_at ? `, quiet ${span(ago(run.output_at ?? run.started_at))}` : "";
}

/** Its state, as a word with its sign and colour, and for how long it has been quiet. */
export function state(run) {
  const mark = quiet(run);
  return chip(run.status + mark, mark ? "quiet" : run.status);
}

/** When its first attempt began; null where none has. */
export function began(run) {
  return run.attempts[0]?.started_at ?? run.started_at;
}

/** For how many seconds it went on since then, or goes on; null where it has not begun. */
export function took(run) {
  if (!began(run)) return null;
  return Math.max(0, run.finished_at ? (Date.parse(run.finished_at) - Date.parse(began(run))) / 1000 : ago(began(run)));
}

/** How far it is, as it says itself. */
export function progress(run) {
  const { progress: value = null } = run.report ?? {};
  if (value === null) return [];
  const words = percent(value);
  const bar = made("progress", { max: 1, value });
  bar.setAttribute("aria-label", `Progress, as it says itself: ${words}`);
  return [bar, made("span", { textContent: words })];
}

export function isActive(run) {
  return ["queued", "running"].includes(run.status);
}

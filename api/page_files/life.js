// How a run lives: how old its last sign of life is, against the window.

import { chip, made, silence } from "./view.js";
import { ago, span } from "./words.js";

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

export function isActive(run) {
  return ["queued", "running"].includes(run.status);
}

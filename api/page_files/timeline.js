// The attempts of a run over its life: how long each waited, ran and was quiet, who followed it, and how it ended.

import { made, when } from "./view.js";
import { exact, now, span } from "./words.js";

/** What happened to an attempt that is marked on its bar, and is not its end. */
const MARKED = { attached: "followed by another worker", quiet: "quiet", late_output: "output came late", late_result: "a result came late" };

/** The attempts as data; `at` is the time up to which one that goes on has come, in milliseconds. */
export function attempts(run, events, at) {
  let free = Date.parse(run.created_at); // Since when the run waits for its next attempt.
  const rows = run.attempts.map((one) => {
    const began = Date.parse(one.started_at);
    const ended = one.finished_at ? Date.parse(one.finished_at) : null;
    const own = events.filter((event) => event.attempt === one.attempt);
    const end = own.findLast((event) => ["succeeded", "failed", "cancelled", "reaped", "retried"].includes(event.kind));
    const row = {
      attempt: one.attempt,
      waits: free,
      began,
      ended,
      worker: one.worker_node,
      how: howItEnded(ended, end),
      isWell: !end || end.kind === "succeeded",
      marks: own.filter((event) => event.kind in MARKED).map((event) => ({ at: Date.parse(event.at), what: MARKED[event.kind] })),
    };
    free = ended ?? at;
    return row;
  });
  if (run.status === "queued") rows.push({ attempt: run.attempt + 1, waits: free, began: null, ended: null, worker: null, how: "waits", isWell: true, marks: [] });
  return rows;
}

function howItEnded(ended, end) {
  if (!ended) return "runs";
  if (!end) return "ended";
  const { error_code: code, retry } = end.detail;
  return `${end.kind}${code ? `: ${code}` : ""}${retry || end.kind === "retried" ? ", to be tried again" : ""}`;
}

/** The same as elements of a list. */
export function drawn(run, events) {
  const at = run.finished_at ? Date.parse(run.finished_at) : now();
  const rows = attempts(run, events, at);
  const from = Date.parse(run.created_at);
  const whole = Math.max(at - from, 1);
  const place = (moment) => Math.min(Math.max((100 * (moment - from)) / whole, 0), 100);
  return rows.map((row) => {
    const began = row.began ?? at;
    const bar = made("div", { className: "bar" }, part("waited", place(row.waits), place(began)));
    if (row.began) bar.append(part(row.isWell ? "ran" : "ran ill", place(began), place(row.ended ?? at)));
    bar.append(...row.marks.map((mark) => marked(mark, place(mark.at))));
    bar.setAttribute("aria-hidden", "true"); // What it shows, the words beside it say.
    return made("li", {}, made("strong", { textContent: `Attempt ${row.attempt}` }), bar, words(row, at));
  });
}

function part(name, from, to) {
  const made_ = made("span", { className: name });
  made_.style.left = `${from}%`;
  made_.style.width = `max(${to - from}%, 2px)`;
  return made_;
}

function marked(mark, at) {
  const made_ = made("i", { title: `${mark.what}, ${exact(mark.at)}` });
  made_.style.left = `${at}%`;
  return made_;
}

function words(row, at) {
  const waited = `waited ${span(((row.began ?? at) - row.waits) / 1000)}`;
  const ran = row.began ? [" · ", `ran ${span(((row.ended ?? at) - row.began) / 1000)}`, " from ", when(row.began)] : [];
  const rest = [row.worker && `on ${row.worker}`, row.how, ...row.marks.map((mark) => mark.what)].filter(Boolean);
  return made("span", { className: "words" }, waited, ...ran, ...rest.map((one) => ` · ${one}`));
}

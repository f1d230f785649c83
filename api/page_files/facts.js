// What is known of a run, as names and values.

import { began, life, progress, state, took } from "./life.js";
import { labels, made, when } from "./view.js";
import { ago, amount, inMemory, short, span, volume } from "./words.js";

/** Pairs of a name and a value, text or element; what is not known is left out. */
export function facts(run) {
  const last = run.attempts.at(-1);
  const used = last?.used;
  return [
    ["Status", Object.assign(state(run), { id: "run-state" })],
    ["Asked for", together([when(run.created_at), run.asked_by && ` by ${run.asked_by}`])],
    ["Does again", run.again_of && link(run.again_of)],
    ["Began", began(run) && when(began(run))],
    ["Ended", run.finished_at && when(run.finished_at)],
    ["Took", took(run) !== null && span(took(run))],
    ["Attempt", `${run.attempt} of ${run.max_attempts}`],
    ["Followed by", last && last.worker_node],
    ["Last sign of life", run.status === "running" && life(run)],
    ["Last output", run.status === "running" && (run.output_at ? `${span(ago(run.output_at))} ago` : "none yet")],
    ["Progress", run.report?.progress != null && made("span", { className: "life" }, ...progress(run))],
    ["Says", run.report?.sentence],
    ["Result", run.report?.result_bytes && result(run)],
    ["Usage", usage(run.report)],
    ["Processor time", used?.cpu_seconds != null && span(used.cpu_seconds)],
    ["Memory", used?.peak_memory_bytes != null && memory(used)],
    ["Adapter", run.adapter],
    ["Lane", run.lane],
    ["Labels", Object.keys(run.labels).length > 0 && together(labels(run).flatMap((one) => [one, " "]))],
  ].filter(([, value]) => value);
}

function together(parts) {
  return made("span", {}, ...parts.filter(Boolean));
}

function link(id) {
  return made("a", { href: `#/runs/${id}`, textContent: short(id), title: id });
}

function result(run) {
  const address = `v1/runs/${run.id}/result`;
  return made("a", { href: address, download: `${run.id}-result.json`, textContent: volume(run.report.result_bytes) });
}

function usage(report) {
  return Object.entries(report?.usage ?? {}).sort().map(([name, sum]) => `${name} ${amount(sum)}`).join(", ");
}

function memory(used) {
  const limit = used.memory_limit_bytes ? ` of ${inMemory(used.memory_limit_bytes)}` : "";
  return `${inMemory(used.peak_memory_bytes)} at most${limit}`;
}

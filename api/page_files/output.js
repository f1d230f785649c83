// What a run prints, as a part of its view: the log as it comes, searched, held, downloaded.

import { follow } from "./live.js";
import { LogView } from "./log.js";
import { made } from "./view.js";

/** Why chunks cannot be read, as models/gaps.py has it. */
const WHY = {
  late: "are late, and on their way",
  missing: "are missing",
  lost: "are lost: they were stored, and cannot be read any more",
  removed: "were removed (retention)",
};

/** Show a run's output. Returns `of`, to be told of the run as it changes, and `leave`. */
export function output(at, id) {
  const log = new LogView(at("log"), at("lines"));
  let attempt = 1;
  const say = (sentence) => { at("log-state").textContent = sentence; };
  const letGo = follow(id, { attempt, after: 0 }, {
    output: (event) => {
      if (event.attempt !== attempt) log.tell(`— attempt ${event.attempt} —`);
      attempt = event.attempt;
      log.add(event.chunks);
    },
    gap: ({ first, last, why }) => log.tell(`— chunks ${first} to ${last} ${WHY[why] ?? "are missing"} —`),
    state: say,
    end: () => say("This is all of it."),
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
    if (words) say(log.find(words) ? "" : `“${words}” is not in it.`);
  };
  at("next").addEventListener("click", search);
  at("search").addEventListener("keydown", (event) => event.key === "Enter" && search());
  return {
    of: (run) => at("downloads").replaceChildren(...downloads(run)),
    leave: () => {
      letGo();
      log.close();
    },
  };
}

function downloads(run) {
  const streams = run.attempt ? ["stdout", "stderr"] : [];
  return streams.flatMap((stream) => {
    const href = `v1/runs/${run.id}/attempts/${run.attempt}/output/${stream}?told=true`;
    return [made("a", { href, download: `${run.id}-${run.attempt}-${stream}.txt`, textContent: `Download ${stream}` }), " "];
  });
}

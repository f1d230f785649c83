// The page: the fleet at a glance, and one run with its output as it comes. Everything it shows is asked of the API.

import { ask } from "./asking.js";
import { showFleet } from "./fleet.js";
import { showRun } from "./run.js";
import { route } from "./view.js";
import { short } from "./words.js";
import { showWorkers } from "./workers.js";

function shown() {
  ask("session").then(({ kept }) => { document.getElementById("leave").hidden = !kept; }).catch(() => {});
  const run = /^#\/runs\/([0-9a-f-]{36})(?:\?.*)?$/.exec(location.hash);
  const workers = location.hash === "#/workers";
  document.title = run ? `Run ${short(run[1])} – Reprieve` : workers ? "Workers – Reprieve" : "Reprieve";
  return run ? showRun(run[1]) : workers ? showWorkers() : showFleet();
}

document.getElementById("leave").addEventListener("click", async () => {
  await ask("session", { method: "DELETE" });
  route(shown);
});
addEventListener("hashchange", () => {
  route(shown);
  document.getElementById("main").focus();
});
route(shown);

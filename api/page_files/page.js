// The page: the fleet at a glance, and one run with its output as it comes. Everything it shows is asked of the API.

import { ask } from "./asking.js";
import { showFleet } from "./fleet.js";
import { showNotices } from "./notices.js";
import { showRun } from "./run.js";
import { route } from "./view.js";
import { short } from "./words.js";
import { showWorkers } from "./workers.js";

const VIEWS = { workers: ["Workers", showWorkers], notices: ["Notices", showNotices] };

function shown() {
  ask("session").then(({ kept }) => { document.getElementById("leave").hidden = !kept; }).catch(() => {});
  const [path] = location.hash.split("?");
  const run = /^#\/runs\/([0-9a-f-]{36})$/.exec(path);
  const [title, show] = run ? [`Run ${short(run[1])}`, () => showRun(run[1])] : VIEWS[path.slice(2)] ?? ["Fleet", showFleet];
  document.title = `${title} – Reprieve`;
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.getAttribute("href") === (VIEWS[path.slice(2)] ? path : run ? "" : "#/");
    link.toggleAttribute("aria-current", isHere);
    if (isHere) link.setAttribute("aria-current", "page");
  }
  return show();
}

document.getElementById("leave").addEventListener("click", async () => {
  await ask("session", { method: "DELETE" });
  route(shown);
});
addEventListener("hashchange", () => {
  route(shown);
  document.getElementById("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
route(shown);

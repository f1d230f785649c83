// Who is told what happens to runs, and what came of telling it.

import { ask } from "./asking.js";
import { made, repeat, row, showHealth, view, when } from "./view.js";
import { short } from "./words.js";

export function showNotices() {
  const at = view("notices-view");
  const state = at("notices-state");
  state.value = new URLSearchParams(location.hash.split("?")[1] ?? "").get("state") ?? "owed";
  if (!state.value) state.value = "owed";
  const look = async () => {
    await showHealth();
    const asked = state.value;
    const [{ rules }, { notices }] = await Promise.all([ask("v1/notices/rules"), ask(`v1/notices?state=${asked}`)]);
    if (asked !== state.value) return; // Another state was chosen meanwhile.
    at("rules").replaceChildren(...rules.map(ruleRow));
    at("no-rules").hidden = rules.length > 0;
    at("notices").replaceChildren(...notices.map(noticeRow));
    at("no-notices").hidden = notices.length > 0;
  };
  const looking = repeat(look);
  state.addEventListener("change", () => {
    history.replaceState(null, "", `#/notices?state=${state.value}`);
    looking.now();
  });
  return looking;
}

function ruleRow(rule) {
  const which = [...Object.entries(rule.labels).map(([name, value]) => `${name}=${value}`), rule.lane && `lane ${rule.lane}`];
  return row(rule.name, rule.address, rule.kinds.join(", ") || "everything", which.filter(Boolean).join(" ") || "all");
}

function noticeRow(notice) {
  const { run_id: run, settled_at: settled, next_try_at: next, state } = notice;
  const link = run ? made("a", { href: `#/runs/${run}`, textContent: short(run), title: run, className: "id" }) : "a test";
  return row(link, notice.kind, when(notice.at), notice.rule ?? "its own", notice.address, notice.tries,
    when(state === "owed" ? next : settled), notice.reason ?? "");
}

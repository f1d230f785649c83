// What a run prints, as a part of its view: the log as it comes, searched, held, linked to, downloaded.

import { Feeder } from "./feeding.js";
import { isActive } from "./life.js";
import { KIND, Lines } from "./lines.js";
import { follow } from "./live.js";
import { LogView } from "./log.js";
import { ERROR, Search, expressionOf } from "./search.js";
import { made, put } from "./view.js";
import { grouped } from "./words.js";

/** Why chunks cannot be read, as models/gaps.py has it. */
const WHY = {
  late: "are late, and on their way",
  missing: "are missing",
  lost: "are lost: they were stored, and cannot be read any more",
  removed: "were removed (retention)",
};
const MUCH = 8 * 1024 * 1024; // Characters that wait to become lines; where there are more, the stream is let go of.
const SOON = 700; // Milliseconds after which a log that has begun to come, and has nothing, is said to be empty.
const TYPED = 200; // Milliseconds after the last key before what is typed is looked for.
const SETTINGS = "reprieve.log"; // Where the browser keeps how logs are looked at.

/** Show a run's output. Returns `of`, to be told of the run as it changes, `toBroken`, and `leave`. */
export function output(at, id) {
  const shown = new Output(at, id);
  return { of: (run) => shown.of(run), toBroken: () => shown.toBroken(), leave: () => shown.leave() };
}

class Output {
  constructor(at, id) {
    this.at = at;
    this.id = id;
    this.run = null;
    this.stream = null;
    this.how = { wraps: false, times: false, ...kept() };
    const { attempt, from, to } = asked(location.hash);
    this.button("log-previous", () => this.go(-1));
    this.button("next", () => this.go(1));
    this.button("log-error", () => this.toError());
    this.button("pause", () => this.pause(!this.isPaused));
    this.button("end", () => this.view.toEnd());
    this.button("log-wraps", () => this.look({ wraps: !this.how.wraps }));
    this.button("log-times", () => this.look({ times: !this.how.times }));
    this.button("log-alone", () => this.look({ alone: !this.how.alone }));
    this.button("log-full", () => this.fill());
    at("log-full").hidden = !document.fullscreenEnabled;
    at("log-part").addEventListener("fullscreenchange", () => press(at("log-full"), document.fullscreenElement !== null));
    at("search").addEventListener("input", () => this.typed());
    at("search").addEventListener("keydown", (event) => event.key === "Enter" && this.go(event.shiftKey ? -1 : 1));
    at("log-line").addEventListener("change", () => this.toLine(Number(at("log-line").value)));
    at("log-attempt").addEventListener("change", () => this.choose(Number(at("log-attempt").value) || null));
    at("lines").addEventListener("click", (event) => this.clicked(event));
    at("log").addEventListener("keydown", (event) => this.pressed(event));
    this.open(attempt, from === null ? null : { attempt: attempt ?? 1, from, to });
  }

  button(name, act) {
    this.at(name).addEventListener("click", act);
  }

  say(sentence) {
    put(this.at("log-state"), sentence);
  }

  /** Show it from the start, all attempts or one, with some lines marked and the first of them gone to once it is there. */
  open(attempt, marked = null) {
    this.closeAll();
    this.chosen = attempt;
    this.place = { attempt: attempt ?? 1, after: 0 };
    this.isOver = false; // Whether no more comes,
    this.isWhole = false; // and all of it is here.
    this.lines = new Lines();
    this.lines.attempt = this.place.attempt;
    if (marked) this.lines.holdsFrom = marked.to;
    this.at("lines").replaceChildren();
    this.view = new LogView(this.at("log"), this.at("lines"), this.lines, {
      href: (line) => this.href(line.attempt, line.number),
      download: (line) => this.download(line.attempt, line.stream),
    });
    this.feeder = new Feeder(this.lines, { fed: () => this.fed(), full: () => this.disconnect() });
    this.wanted = marked;
    this.view.marked = marked;
    this.look({});
    this.startSearch(true);
    this.pause(false);
  }

  closeAll() {
    this.disconnect();
    this.feeder?.close();
    this.view?.close();
    this.endSearch();
  }

  leave() {
    clearTimeout(this.typing);
    this.closeAll();
  }

  // What comes.

  connect() {
    if (this.stream || this.isOver || this.isPaused || this.lines.isFull) return;
    this.opened = null;
    // A stream that was let go of is not heard any more, and one may speak before we have what lets go of it.
    const stream = { letGo: () => {} };
    this.stream = stream;
    const heard = (act) => (what) => this.stream === stream && act(what);
    const letGo = follow(this.id, this.place, {
      output: heard((event) => this.heard(event)),
      gap: heard((gap) => this.missed(gap)),
      state: heard((sentence) => {
        this.opened ??= sentence === "" ? setTimeout(() => this.showWhatThereIs(), SOON) : null;
        this.say(sentence);
      }),
      end: heard(() => this.endWith("This is all of it.")),
    });
    if (this.stream === stream) stream.letGo = letGo;
    else letGo();
  }

  disconnect() {
    clearTimeout(this.opened);
    this.stream?.letGo();
    this.stream = null;
    if (this.lines) this.showWhatThereIs();
  }

  heard({ attempt, chunks }) {
    if (this.isBehind(attempt)) return;
    const fresh = chunks.filter((chunk) => attempt !== this.place.attempt || chunk.seq > this.place.after);
    if (!fresh.length) return;
    this.place = { attempt, after: fresh[fresh.length - 1].seq };
    const size = fresh.reduce((sum, chunk) => sum + (chunk.text ?? chunk.base64).length, 0);
    this.feeder.add(this.steps(attempt, fresh), size);
    if (this.feeder.size > MUCH) this.disconnect();
  }

  *steps(attempt, chunks) {
    this.beginAttempt(attempt);
    for (const chunk of chunks) yield* this.lines.taking(chunk);
  }

  beginAttempt(attempt) {
    if (attempt === this.lines.attempt) return;
    this.lines.beginAttempt(attempt);
    this.lines.tell(`— attempt ${attempt} —`);
  }

  missed({ attempt, first, last, why }) {
    if (this.isBehind(attempt)) return;
    this.place = { attempt, after: last };
    this.feeder.add(this.told(attempt, `— chunks ${first} to ${last} ${WHY[why] ?? "are missing"} —`));
  }

  *told(attempt, sentence) {
    this.beginAttempt(attempt);
    this.lines.tell(sentence);
  }

  /** Whether this is of an attempt behind the one that is shown alone, which has ended then. */
  isBehind(attempt) {
    if (this.chosen === null || attempt <= this.chosen) return false;
    this.endWith(`This is all of attempt ${this.chosen}.`);
    return true;
  }

  endWith(sentence) {
    this.isOver = true;
    this.disconnect();
    this.feeder.add(this.ending(sentence));
  }

  *ending(sentence) {
    this.lines.finish();
    this.isWhole = true;
    this.say(sentence);
    if (this.wanted) this.say(`${sentence} There is no line ${this.wanted.from}: it has ${this.lines.number}.`);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    press(this.at("pause"), isPaused);
    this.at("pause").textContent = isPaused ? "Go on" : "Pause";
    if (isPaused) {
      this.feeder.stand();
      this.disconnect();
      if (!this.isOver) this.say("It stands still here; what comes meanwhile is shown when you go on.");
      return;
    }
    this.feeder.goOn();
    this.connect();
  }

  /** A turn has ended. */
  fed() {
    if (this.feeder.size < MUCH / 2) this.connect();
    if (this.wanted) this.seek();
    this.search?.grown();
    this.errors?.grown();
    this.view.draw();
    this.showWhatThereIs();
  }

  seek() {
    const place = this.lines.placeOf(this.wanted.attempt, this.wanted.from);
    if (place === null) return;
    this.wanted = null;
    this.view.goTo(place);
  }

  showWhatThereIs() {
    const { at, lines } = this;
    const isEmpty = lines.count === 0;
    const isOpen = this.stream !== null && this.opened !== null;
    at("log").hidden = isEmpty;
    at("log-nothing").textContent = !isEmpty ? "" : this.isOver ? "It printed nothing." : isOpen ? "It has printed nothing yet." : "";
    this.tellOf("log-start", lines.first > 0, `The first ${counted(lines.first)} are not kept here.`, "Show them", () => {
      this.toFirst();
    });
    this.tellOf("log-rest", lines.isFull, `These ${counted(lines.count - lines.first)} are as many as can be kept here.`, "Show what follows", () => {
      lines.holdsFrom = null;
      this.pause(false);
    });
  }

  toFirst() {
    const attempt = this.chosen ?? 1;
    this.open(this.chosen, { attempt, from: 1, to: 1 });
  }

  tellOf(name, isSo, sentence, words, act) {
    const place = this.at(name);
    place.hidden = !isSo;
    if (!isSo) return;
    if (!place.firstChild) place.append(made("span"), " ", made("button", { type: "button", textContent: words }));
    place.lastChild.onclick = act;
    if (place.firstChild.textContent !== sentence) place.firstChild.textContent = sentence;
  }

  // How it is looked at.

  look(how) {
    this.how = { ...this.how, ...how };
    keep({ wraps: this.how.wraps, times: this.how.times });
    for (const name of ["wraps", "times", "alone"]) press(this.at(`log-${name}`), Boolean(this.how[name]));
    this.view.look(this.how);
    if ("alone" in how) this.startSearch(true);
  }

  fill() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.at("log-part").requestFullscreen().catch(() => {});
  }

  choose(attempt) {
    history.replaceState(null, "", `#/runs/${this.id}${attempt ? `?attempt=${attempt}` : ""}`);
    this.open(attempt);
    if (this.run) this.of(this.run);
  }

  href(attempt, from, to = from) {
    return `#/runs/${this.id}?attempt=${attempt}&lines=${from}${to === from ? "" : `-${to}`}`;
  }

  download(attempt, stream) {
    return `v1/runs/${this.id}/attempts/${attempt}/output/${stream}?told=true`;
  }

  mark(attempt, from, to) {
    this.view.marked = { attempt, from, to };
    history.replaceState(null, "", this.href(attempt, from, to));
    this.view.draw();
  }

  clicked(event) {
    const number = event.target.closest?.(".number[href]");
    if (!number || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const { attempt, from } = asked(number.getAttribute("href"));
    const other = event.shiftKey && this.view.marked?.attempt === attempt ? this.view.marked.from : from;
    this.mark(attempt, Math.min(from, other), Math.max(from, other));
  }

  toLine(number) {
    if (!(number >= 1)) return;
    const attempt = this.chosen ?? this.lines.blockOf(this.view.firstSeen)?.attempt ?? 1;
    const place = this.lines.placeOf(attempt, number);
    if (place !== null) {
      this.mark(attempt, number, number);
      this.view.goTo(place);
    } else if (this.lines.first > 0 && number <= this.lines.number) this.open(this.chosen, { attempt, from: number, to: number });
    else this.say(`There is no line ${number}${this.isOver ? "" : " yet"}.`);
  }

  /** Keys of the log, while it has the focus: a page's readers have keys of their own. */
  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.at("log")) return;
    const keys = {
      "/": () => this.at("search").focus(),
      n: () => this.go(1),
      N: () => this.go(-1),
      e: () => this.toError(),
      w: () => this.look({ wraps: !this.how.wraps }),
      t: () => this.look({ times: !this.how.times }),
      f: () => this.fill(),
      G: () => this.view.toEnd(),
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  }

  // What is looked for.

  typed() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.startSearch(), TYPED);
  }

  /** Look for what stands in the field, where that is not being done already. */
  startSearch(isAnew = false) {
    clearTimeout(this.typing);
    const words = this.at("search").value;
    if (!isAnew && words === this.words) return;
    this.endSearch();
    this.words = words;
    const { expression, problem } = words ? expressionOf(words) : {};
    this.at("log-matches").textContent = problem ?? "";
    if (!expression) return;
    this.search = this.searchFor(expression, () => this.searched());
    this.view.search = this.search;
  }

  searchFor(expression, changed) {
    const isShown = (block, index) => (
      block.kind(index) !== KIND.told && block.rowsOf(index, { columns: Infinity, alone: this.how.alone }) > 0
    );
    const endedFor = (why) => () => {
      const { words } = this;
      this.endSearch();
      this.words = words; // It is not begun again for the same.
      this.at("log-matches").textContent = why;
    };
    return new Search(this.lines, expression, isShown, {
      changed,
      slow: endedFor("This expression takes too long; a simpler one will do."),
      broken: endedFor("The search cannot be started here; the page may be newer when you load it again."),
    });
  }

  endSearch() {
    this.search?.close();
    this.errors?.close();
    this.search = this.errors = null;
    this.words = "";
    this.wants = 0;
    if (!this.view) return;
    this.view.search = null;
    this.view.current = -1;
    this.view.draw();
  }

  go(step) {
    this.startSearch();
    if (!this.search) return;
    this.wants = step;
    this.searched();
  }

  /** The search knows more, or something else is wanted of it. */
  searched() {
    const { search, view } = this;
    if (this.wants) {
      const isBack = this.wants < 0;
      const place = search.next(view.current < 0 && isBack ? Infinity : view.current, isBack);
      if (place !== null) {
        view.current = place;
        view.goTo(place);
      }
      if (place !== null || (search.isDone && search.count === 0)) this.wants = 0;
    }
    view.draw();
    const count = grouped(search.count);
    const which = view.current < 0 ? counted(search.count) : `${grouped(search.ordinal(view.current))} of ${count}`;
    const none = search.isDone ? `“${this.words.slice(0, 50)}” is not in it.` : "Searching …";
    this.at("log-matches").textContent = search.count ? `${which}${search.isDone ? "" : " so far"}` : none;
  }

  /** To where it broke: the first line of its last attempt that tells of an error. */
  toBroken() {
    const { attempt } = this.run;
    if (attempt > 1 && this.chosen !== attempt) this.choose(attempt);
    this.at("log").scrollIntoView({ block: "nearest" });
    this.toError();
  }

  /** Whether more of a log that has ended is on its way. */
  get isComing() {
    return !this.isWhole && this.run !== null && !isActive(this.run) && (this.isOver || this.stream !== null);
  }

  /** To the first line that tells of an error, or, where none does, to the first of stderr. */
  toError() {
    this.errors?.close();
    this.at("log-matches").textContent = "Searching …";
    const errors = this.searchFor(ERROR, () => {
      const isAll = errors.isDone && !this.isComing;
      const place = errors.next(-1, false) ?? (isAll ? this.firstOfStderr() : undefined);
      if (place === undefined) return;
      errors.close();
      this.errors = null;
      if (this.search) this.searched(); // What is looked for besides is told again.
      else this.at("log-matches").textContent = "";
      if (place === null) {
        this.at("log-matches").textContent = "No line tells of an error, and none is of stderr.";
        return;
      }
      const { attempt, number } = this.lines.line(place);
      this.mark(attempt, number, number);
      this.view.goTo(place);
    });
    this.errors = errors;
  }

  firstOfStderr() {
    for (const block of this.lines.blocks) {
      for (let index = 0; index < block.count; index += 1) if (block.kind(index) === KIND.stderr) return block.first + index;
    }
    return null;
  }

  // What is told of the run.

  of(run) {
    this.run = run;
    const { at, chosen } = this;
    const choices = at("log-attempt");
    at("log-attempts").hidden = run.attempt < 2 && chosen === null;
    if (choices.options.length !== Math.max(run.attempt, chosen ?? 0) + 1) {
      const attempts = Array.from({ length: Math.max(run.attempt, chosen ?? 0) }, (_, place) => place + 1);
      choices.replaceChildren(new Option("all", ""), ...attempts.map((attempt) => new Option(attempt, attempt)));
    }
    choices.value = chosen ?? "";
    if (chosen !== null && chosen > Math.max(run.attempt, 1)) this.say(`There is no attempt ${chosen} yet.`);
    const attempt = Math.min(chosen ?? run.attempt, run.attempt);
    if (at("downloads").dataset.attempt === String(attempt)) return;
    at("downloads").dataset.attempt = attempt;
    at("downloads").replaceChildren(...(attempt ? this.downloads(run, attempt) : []));
  }

  downloads({ id, attempt: last }, attempt) {
    const which = last > 1 ? ` of attempt ${attempt}` : "";
    const link = (href, name, words) => [made("a", { href, download: name, textContent: `Download ${words}${which}` }), " "];
    return [
      ...["stdout", "stderr"].flatMap((stream) => link(this.download(attempt, stream), `${id}-${attempt}-${stream}.txt`, stream)),
      ...link(`v1/runs/${id}/attempts/${attempt}/log.ndjson`, `${id}-${attempt}.ndjson`, "all with times (JSON)"),
    ];
  }
}

/** What an address asks of a log: `attempt`, and the first and the last line; null for what it does not say. */
function asked(address) {
  const query = new URLSearchParams(address.split("?")[1] ?? "");
  const attempt = /^[1-9]\d{0,3}$/.test(query.get("attempt")) ? Number(query.get("attempt")) : null;
  const lines = /^([1-9]\d{0,8})(?:-([1-9]\d{0,8}))?$/.exec(query.get("lines"));
  if (!lines) return { attempt, from: null, to: null };
  const [one, other] = [Number(lines[1]), Number(lines[2] ?? lines[1])];
  return { attempt, from: Math.min(one, other), to: Math.max(one, other) };
}

function counted(count) {
  return count === 1 ? "1 line" : `${grouped(count)} lines`;
}

function press(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}

/** How logs were looked at in this browser; one may keep nothing. */
function kept() {
  try {
    const { wraps, times } = JSON.parse(localStorage.getItem(SETTINGS)) ?? {};
    return { wraps: wraps === true, times: times === true };
  } catch {
    return {};
  }
}

function keep(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // It is as well for this view alone.
  }
}

// The output of a run as it comes.
//
// A browser has six connections for all tabs of an address over HTTP/1.1, and a stream keeps one. So a tab that cannot be
// seen has none; of the tabs that show one run, one reads and tells the others; and at most STREAMS of those have a
// stream. All others ask, in short requests, for what is there. Who reads, and who has a stream, holds a lock of the
// browser's, which is free again as soon as its tab is gone. What tabs tell each other are hints: who hears nothing, or
// something that does not follow what it has, asks the API.

const STREAMS = 3; // Streams of all tabs together: half of the browser's connections are left for requests.
const COME_BACK = 2000; // Milliseconds after which who was cut off comes back,
const ASK_AGAIN = 1000; // after which who has no stream asks again,
const CHECK = 10_000; // and who hears of another tab, all the same.
const HERE = 3000; // Milliseconds between two signs of the tab that reads; after twice that, it is not heard any more.
const OPENS = 5000; // Milliseconds within which a stream opens; if it does not,
const WITHOUT = 60_000; // so long is asked instead.
const DEADLINE = 20_000; // Milliseconds that a request may take.
const KEPT = 20; // Events of another tab that are kept until what is before them is there.

/**
 * Follow the output of a run from a place on, `{attempt, after}`, through all its attempts. `on` hears of `output` (what
 * the API's event holds), of each `gap`, of the `state` in a sentence ("" where all is well), and of the `end`.
 * Returns how it is let go.
 */
export function follow(id, from, on) {
  const reading = { place: `${from.attempt}:${from.after}`, isOver: false };
  let look = new AbortController();
  const begin = () => {
    look.abort();
    look = new AbortController();
    // A page that is being left has no locks any more: that ends it, too.
    if (!document.hidden && !reading.isOver) new Look(id, reading, on, look.signal).read().catch(() => {});
  };
  document.addEventListener("visibilitychange", begin);
  begin();
  return () => {
    document.removeEventListener("visibilitychange", begin);
    look.abort();
  };
}

/** From when a tab is seen until it is not. */
class Look {
  #address;
  #reading;
  #on;
  #signal;
  #channel;
  #leads = false;
  #heard = []; // Of the tab that reads, what does not follow yet.
  #heardAt = -Infinity;
  #noStreamBefore = 0;
  #wake = () => {};

  constructor(id, reading, on, signal) {
    this.#address = `v1/runs/${id}/log/live`;
    this.#reading = reading;
    this.#on = on;
    this.#signal = signal;
    this.#channel = new BroadcastChannel(`reprieve: log of ${id}`);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    const here = setInterval(() => this.#leads && this.#channel.postMessage(null), HERE);
    signal.addEventListener("abort", () => {
      clearInterval(here);
      this.#channel.close();
      this.#wake();
    });
  }

  get #isDone() {
    return this.#signal.aborted || this.#reading.isOver;
  }

  async read() {
    // Without TLS, and not on this machine, there are no locks: then each tab asks for itself.
    if (navigator.locks) await Promise.race([this.#toLead(), this.#pause(100)]);
    while (!this.#isDone) {
      if (this.#leads && (await this.#withStream())) continue;
      const pause = await this.#ask();
      if (!this.#isDone && pause) await this.#pause(pause);
    }
  }

  /** Returns once this tab is the one that reads; it stays that until it is not seen any more, or all is read. */
  #toLead() {
    return new Promise((resolve) => {
      const lead = () => {
        this.#leads = true;
        this.#wake();
        resolve();
        return new Promise((free) => { this.#signal.addEventListener("abort", free); });
      };
      navigator.locks.request(this.#channel.name, { signal: this.#signal }, lead).catch(resolve);
    });
  }

  /** Read by a stream until it ends; false where this tab has none just now. */
  async #withStream() {
    if (Date.now() < this.#noStreamBefore) return false;
    if (hasManyStreams()) return this.#stream();
    for (let number = 1; number <= STREAMS; number += 1) {
      const use = async (lock) => Boolean(lock) && this.#stream();
      if (await navigator.locks.request(`reprieve: stream ${number}`, { ifAvailable: true }, use)) return true;
    }
    return false;
  }

  #stream() {
    return new Promise((resolve) => {
      const source = new EventSource(this.#from());
      const close = () => {
        clearTimeout(opens);
        source.close();
        resolve(true);
      };
      const opens = setTimeout(() => {
        this.#noStreamBefore = Date.now() + WITHOUT;
        close();
      }, OPENS);
      this.#signal.addEventListener("abort", close);
      source.addEventListener("open", () => {
        clearTimeout(opens);
        this.#say("");
      });
      for (const name of ["output", "gap", "unavailable", "end"]) {
        source.addEventListener(name, (event) => {
          if (this.#isDone) return;
          this.#take(name, JSON.parse(event.data), event.lastEventId);
          if (this.#reading.isOver) close();
        });
      }
      source.addEventListener("error", () => {
        if (this.#isDone) return;
        this.#say("Cut off; coming back …");
        // The browser comes back by itself; where it gives up, we do.
        if (source.readyState === EventSource.CLOSED) setTimeout(close, COME_BACK);
      });
    });
  }

  /** Ask for what is there; returns after how many milliseconds to ask again. */
  async #ask() {
    const place = this.#reading.place;
    let answer;
    let said;
    try {
      const signal = AbortSignal.any([this.#signal, AbortSignal.timeout(DEADLINE)]);
      answer = await fetch(`${this.#from()}&once=true`, { signal });
      said = await answer.text();
    } catch {
      if (!this.#isDone) this.#say("Cut off; coming back …");
      return COME_BACK;
    }
    if (this.#isDone) return 0;
    if (!answer.ok) {
      this.#say(detailOf(said) ?? `The API answers ${answer.status}; trying again …`);
      return COME_BACK;
    }
    this.#say("");
    // Another tab may have told meanwhile what comes next: then all of this is here already, or is asked for again.
    if (place !== this.#reading.place) return ASK_AGAIN;
    for (const { event, id, data } of events(said)) {
      this.#take(event, data, id);
      if (event === "unavailable") return 5 * ASK_AGAIN;
    }
    this.#catchUp();
    if (place !== this.#reading.place) return 0;
    const isTold = !this.#leads && !this.#heard.length && Date.now() - this.#heardAt < 2 * HERE;
    return isTold ? CHECK : ASK_AGAIN;
  }

  #from() {
    const [attempt, after] = this.#reading.place.split(":");
    return `${this.#address}?attempt=${attempt}&after=${after}`;
  }

  #take(name, data, place) {
    const from = this.#reading.place;
    if (name === "unavailable") return this.#say(data.detail);
    if (name === "end") this.#reading.isOver = true;
    else this.#reading.place = place;
    if (this.#leads) this.#channel.postMessage({ name, data, from, place });
    return this.#on[name](data);
  }

  #say(sentence) {
    this.#on.state(sentence);
  }

  /** What the tab that reads has told. */
  #hear(told) {
    this.#heardAt = Date.now();
    if (!told || this.#leads || this.#isDone) return;
    this.#heard = [...this.#heard, told].slice(-KEPT);
    this.#catchUp();
    if (this.#heard.length) this.#wake(ASK_AGAIN);
  }

  /** Take what has been told and follows what is here. */
  #catchUp() {
    while (!this.#isDone && this.#heard.length) {
      const told = following(this.#heard[0], this.#reading.place);
      if (told === null) return;
      this.#heard.shift();
      if (told) this.#take(told.name, told.data, told.place);
    }
  }

  #pause(milliseconds) {
    return new Promise((resolve) => {
      let timer = setTimeout(resolve, milliseconds);
      const ends = Date.now() + milliseconds;
      this.#wake = (after = 0) => {
        if (Date.now() + after >= ends) return;
        clearTimeout(timer);
        timer = setTimeout(resolve, after);
      };
    });
  }
}

/**
 * What an event that another tab told adds to what is here up to `place`: all of it, its later part, false where that is
 * nothing, or null where something before it is not here yet.
 */
function following(told, place) {
  if (told.from === place) return told;
  const [attempt, seq] = place.split(":").map(Number);
  const [toldAttempt, last] = told.place.split(":").map(Number);
  const [fromAttempt, before] = told.from.split(":").map(Number);
  if (told.name !== "end" && (toldAttempt < attempt || (toldAttempt === attempt && last <= seq))) return false;
  if (told.name !== "output" || fromAttempt !== attempt || toldAttempt !== attempt || before > seq) return null;
  return { ...told, data: { ...told.data, chunks: told.data.chunks.filter((chunk) => chunk.seq > seq) } };
}

/** Whether the page came by HTTP/2 or later, where one connection has all streams. */
function hasManyStreams() {
  const [page] = performance.getEntriesByType("navigation");
  return /^h[23]/.test(page?.nextHopProtocol ?? "");
}

/** The events of a stream that has ended. */
function events(said) {
  return said.split(/\r?\n\r?\n/).map((block) => {
    const lines = block.split(/\r?\n/).map((line) => /^(\w+): ?(.*)$/.exec(line)).filter(Boolean);
    const fields = Object.fromEntries(lines.map(([, name, value]) => [name, value]));
    return { event: fields.event, id: fields.id, data: fields.data && JSON.parse(fields.data) };
  }).filter((one) => one.event);
}

function detailOf(said) {
  try {
    return JSON.parse(said).detail;
  } catch {
    return undefined;
  }
}

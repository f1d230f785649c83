// What has come waits here, and becomes lines in turns that are so short that the page never stands still.

const TURN = 8; // Milliseconds of a turn, of which a browser has 50 before it calls a task long.

export class Feeder {
  /** `on.fed` hears of each turn's end; `on.full` when the lines may not be more, with the rest still waiting. */
  constructor(lines, on) {
    this.lines = lines;
    this.on = on;
    this.jobs = [];
    this.size = 0; // Characters that wait.
    this.timer = 0;
    this.stands = false;
    this.longest = 0; // The longest turn yet, in milliseconds: bench/page.py asks.
  }

  /** `steps` is an iterator; between two of its steps it may be left off. */
  add(steps, size = 0) {
    this.jobs.push({ steps, size });
    this.size += size;
    this.goOn();
  }

  stand() {
    this.stands = true;
  }

  goOn() {
    this.stands = false;
    if (!this.timer && this.jobs.length) this.timer = setTimeout(() => this.turn());
  }

  close() {
    clearTimeout(this.timer);
    this.jobs = [];
    this.stands = true;
  }

  turn() {
    this.timer = 0;
    const began = performance.now();
    while (this.jobs.length && !this.stands && !this.lines.isFull && performance.now() < began + TURN) {
      if (!this.jobs[0].steps.next().done) continue;
      this.size -= this.jobs[0].size;
      this.jobs.shift();
    }
    this.longest = Math.max(this.longest, performance.now() - began);
    this.on.fed();
    if (this.stands) return;
    if (this.lines.isFull) this.on.full();
    else this.goOn();
  }
}

// A log on the page: only the lines that can be seen are there, so that a million of them cost what fifty do.

import { Lines, pieces } from "./terminal.js";

const HEIGHT = 18; // Of a line, in pixels; as in page.css.
const TALLEST = 15_000_000; // Browsers end at 17 to 33 million pixels; a longer log is scrolled in larger steps.

export class LogView {
  constructor(box, sheet) {
    this.box = box;
    this.sheet = sheet;
    this.lines = new Lines();
    this.waiting = null; // What comes while it stands still, as what is to be done with it.
    this.atEnd = true;
    this.found = -1;
    this.due = false;
    box.addEventListener("scroll", () => {
      this.atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 2 * HEIGHT;
      this.draw();
    });
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(box);
  }

  close() {
    this.resized.disconnect();
  }

  add(chunks) {
    this.take(() => chunks.forEach((chunk) => this.lines.feed(chunk)));
  }

  tell(text) {
    this.take(() => this.lines.tell(text));
  }

  take(change) {
    if (this.waiting) {
      this.waiting.push(change);
      return;
    }
    change();
    this.draw();
  }

  pause(paused) {
    const waited = this.waiting ?? [];
    this.waiting = paused ? waited : null;
    if (paused) return;
    waited.forEach((change) => change());
    this.draw();
  }

  toEnd() {
    this.atEnd = true;
    this.draw();
  }

  /** Go to the next line that has these words; returns whether there is one. */
  find(words) {
    const wanted = words.toLowerCase();
    const count = this.lines.all.length;
    for (let step = 1; step <= count; step += 1) {
      const place = (this.found + step) % count;
      if (plain(this.lines.all[place].text).toLowerCase().includes(wanted)) {
        this.found = place;
        this.atEnd = false;
        this.scrollTo(place);
        this.draw();
        return true;
      }
    }
    this.found = -1;
    this.draw();
    return false;
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.drawNow();
    });
  }

  get height() {
    return this.lines.all.length * HEIGHT;
  }

  get scale() {
    const whole = this.height - this.box.clientHeight;
    const there = Math.min(this.height, TALLEST) - this.box.clientHeight;
    return there > 0 ? Math.max(1, whole / there) : 1;
  }

  scrollTo(place) {
    this.box.scrollTop = Math.max(0, (place * HEIGHT - this.box.clientHeight / 2) / this.scale);
  }

  drawNow() {
    this.sheet.style.height = `${Math.min(this.height, TALLEST)}px`;
    if (this.atEnd) this.box.scrollTop = this.box.scrollHeight;
    const top = this.box.scrollTop * this.scale;
    const first = Math.max(0, Math.floor(top / HEIGHT) - 2);
    const last = Math.min(this.lines.all.length, first + Math.ceil(this.box.clientHeight / HEIGHT) + 4);
    const rows = [];
    for (let place = first; place < last; place += 1) {
      rows.push(row(this.lines.all[place], this.box.scrollTop + place * HEIGHT - top, place === this.found));
    }
    this.sheet.replaceChildren(...rows);
  }
}

function row(line, top, isFound) {
  const made = document.createElement("div");
  made.className = `row ${line.stream}${isFound ? " found" : ""}`;
  made.style.top = `${top}px`;
  for (const [classes, text] of pieces(line.text)) {
    const piece = document.createElement("span");
    piece.className = classes;
    piece.textContent = text;
    made.append(piece);
  }
  return made;
}

function plain(text) {
  return pieces(text).map(([, piece]) => piece).join("");
}

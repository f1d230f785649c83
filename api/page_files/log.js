// A log on the page: only the lines that can be seen are there, so that a million of them cost what fifty do.

import { read } from "./colours.js";
import { KIND } from "./lines.js";
import { MOST_PIECES, rowOf } from "./row.js";

const HEIGHT = 18; // Of a row, in pixels; as in log.css.
const TALLEST = 15_000_000; // Browsers end at 17 to 33 million pixels; a longer log is scrolled in larger steps.
const BESIDE = 2; // Rows that are drawn above and below those that can be seen.

/** `of` says of a line what its number links to (`href`) and where it can be downloaded (`download`). */
export class LogView {
  constructor(box, sheet, lines, of) {
    this.box = box;
    this.sheet = sheet;
    this.of = of;
    this.lines = lines;
    this.atEnd = true;
    this.top = 0; // Pixels of the lines that are kept, above what is seen.
    this.held = null; // The place that stays where it is when what is above it changes, and what of it is above.
    this.due = false;
    this.how = { wraps: false, times: false, alone: false };
    this.columns = Infinity;
    this.marked = null; // {attempt, from, to}: lines by their numbers.
    this.current = -1; // The place of the match that was gone to.
    this.search = null;
    this.rows = sheet.appendChild(document.createElement("div"));
    this.rows.className = "rows";
    this.closing = new AbortController();
    const { signal } = this.closing;
    box.addEventListener("scroll", () => this.scrolled(), { signal });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(), { signal });
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(box);
  }

  /** Another may be shown in the same box. */
  close() {
    this.closing.abort();
    this.resized.disconnect();
  }

  /** Look at it otherwise: `wraps`, `times`, `alone` (stderr and what is told). */
  look(how) {
    this.how = { ...this.how, ...how };
    this.box.classList.toggle("wraps", this.how.wraps);
    this.draw();
  }

  toEnd() {
    this.atEnd = true;
    this.draw();
  }

  /** Have a line in the midst of what is seen, wherever the page stood. */
  goTo(place) {
    this.box.scrollIntoView({ block: "nearest" });
    this.atEnd = false;
    this.held = { place, within: HEIGHT / 2 - this.box.clientHeight / 2 };
    this.draw();
  }

  /** The first line that can be seen. */
  get firstSeen() {
    return this.held?.place ?? this.lines.first;
  }

  scrolled() {
    if (this.box.scrollTop === this.set) return; // We did that ourselves.
    this.set = null;
    const { box } = this;
    this.atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 2 * HEIGHT;
    this.held = null;
    this.draw();
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      if (!this.closing.signal.aborted) this.drawNow();
    });
  }

  /** Pixels from the first line that is kept to a place. */
  topOf(place) {
    let rows = 0;
    for (const block of this.lines.blocks) {
      if (place < block.first) break;
      if (place < block.first + block.count) {
        for (let index = 0; index < place - block.first; index += 1) rows += block.rowsOf(index, this.layout);
        break;
      }
      rows += block.rows(this.layout);
    }
    return rows * HEIGHT;
  }

  /** The place whose rows are so many pixels below the first line that is kept, and the pixels at which they begin. */
  placeAt(pixels) {
    let rows = 0;
    for (const block of this.lines.blocks) {
      const its = block.rows(this.layout);
      if ((rows + its) * HEIGHT > pixels) {
        for (let index = 0; index < block.count; index += 1) {
          const height = block.rowsOf(index, this.layout);
          if ((rows + height) * HEIGHT > pixels) return [block.first + index, rows * HEIGHT];
          rows += height;
        }
      }
      rows += its;
    }
    return [this.lines.count, rows * HEIGHT];
  }

  measure() {
    const probe = this.rows.querySelector(".text");
    this.layout = { columns: Infinity, alone: this.how.alone };
    this.sheet.style.setProperty("--digits", String(Math.max(3, String(this.lines.count).length)));
    if (!this.how.wraps || !probe) return;
    const width = probe.clientWidth - parseFloat(getComputedStyle(probe).paddingRight);
    this.letter ??= letterWidth(this.sheet);
    this.layout.columns = Math.max(1, Math.floor(width / this.letter));
  }

  drawNow() {
    const { box, lines } = this;
    this.measure();
    const height = lines.blocks.reduce((sum, block) => sum + block.rows(this.layout), 0) * HEIGHT;
    const seen = box.clientHeight;
    const shown = Math.min(height, TALLEST);
    const scale = shown > seen ? Math.max(1, (height - seen) / (shown - seen)) : 1;
    this.sheet.style.height = `${shown}px`;
    const most = Math.max(0, height - seen);
    if (this.atEnd) this.scroll(box.scrollHeight);
    else if (this.held) this.scroll(Math.max(0, Math.min(most, this.topOf(this.held.place) + this.held.within)) / scale);
    const top = Math.min(most, box.scrollTop * scale);
    if (!this.held || this.atEnd) {
      const [place, from] = this.placeAt(top);
      this.held = { place, within: top - from };
    }
    this.drawRows(top, seen, this.atEnd && height > seen);
  }

  scroll(to) {
    this.box.scrollTop = to;
    this.set = this.box.scrollTop;
  }

  drawRows(top, seen, isAtEnd) {
    const [first, from] = this.placeAt(Math.max(0, top - BESIDE * HEIGHT));
    const style = getComputedStyle(this.box);
    const look = {
      most: Math.floor(MOST_PIECES / (seen / HEIGHT + 2 * BESIDE)),
      times: this.how.times, download: this.of.download, text: read(style.color), ground: read(style.backgroundColor),
    };
    const made = [];
    for (let place = first, at = from; place < this.lines.count && at < top + seen + BESIDE * HEIGHT; place += 1) {
      const block = this.lines.blockOf(place);
      const rows = block.rowsOf(place - block.first, this.layout);
      if (rows === 0) continue;
      const line = block.line(place - block.first);
      const match = this.search?.of(place) ?? null;
      const current = place === this.current;
      made.push(rowOf(line, { ...look, match, current, marked: this.isMarked(line), href: this.of.href(line) }));
      at += rows * HEIGHT;
    }
    renew(this.rows, made);
    // What is wrapped may be taller than was reckoned: the last line is at the bottom then, wherever the first is.
    this.rows.style.top = isAtEnd ? "auto" : `${this.box.scrollTop + from - top}px`;
    this.rows.style.bottom = isAtEnd ? "0" : "auto";
  }

  isMarked({ attempt, number, kind }) {
    const { marked } = this;
    return marked !== null && kind !== KIND.told && attempt === marked.attempt && number >= marked.from && number <= marked.to;
  }
}

/** Show these rows. Those that are as they were stay: nobody's press, or choice, is taken from under their hand. */
function renew(parent, rows) {
  const key = (row) => row.firstElementChild.getAttribute("href") ?? row.textContent;
  const there = new Map([...parent.children].map((row) => [key(row), row]));
  const shown = rows.map((row) => {
    const before = there.get(key(row));
    return before?.isEqualNode(row) && there.delete(key(row)) ? before : row;
  });
  const kept = new Set(shown);
  for (const row of [...parent.children]) if (!kept.has(row)) row.remove();
  shown.forEach((row, place) => {
    if (parent.children[place] !== row) parent.insertBefore(row, parent.children[place] ?? null);
  });
}

/** The width of a character, in pixels. */
function letterWidth(sheet) {
  const probe = document.createElement("span");
  probe.textContent = "0".repeat(100);
  probe.className = "probe";
  sheet.append(probe);
  const width = probe.getBoundingClientRect().width / 100;
  probe.remove();
  return width;
}

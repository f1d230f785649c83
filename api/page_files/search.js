// Search in the lines of a log: block by block on a thread of its own, on and on while more comes.

const LONGEST = 2000; // Milliseconds for a block of a thousand lines.
const LATER = 250; // Milliseconds after which a block that has grown is searched again.
const MOST_WORDS = 1000; // Characters of what is looked for.

/**
 * What is looked for, as an expression, or a sentence that says why it is none. Words are found in whatever case;
 * `/…/` is an expression of JavaScript, and `/…/i` one in whatever case.
 */
export function expressionOf(words) {
  if (words.length > MOST_WORDS) return { problem: `What is looked for has at most ${MOST_WORDS} characters.` };
  const own = /^\/(.+)\/([a-z]*)$/s.exec(words);
  if (!own) return { expression: new RegExp(words.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu") };
  if (!/^i?$/.test(own[2])) return { problem: `“${own[2]}” does not belong behind an expression; only i does.` };
  try {
    return { expression: new RegExp(own[1], `${own[2]}u`) };
  } catch (error) {
    return { problem: `That is no expression: ${error.message}` };
  }
}

/** Words of which one tells of an error, in lower case, with a capital, or in capitals. */
const WORDS = [
  "error", "errors", "exception", "fatal", "panic", "panicked", "traceback", "critical", "failed", "failure", "killed",
  "segmentation fault", "out of memory", "core dumped", "cannot",
];
const SPELT = WORDS.flatMap((word) => [word, word[0].toUpperCase() + word.slice(1), word.toUpperCase()]);

/**
 * A line that tells of an error: one of these words, or a name like `ValueError`, that nothing beside it denies
 * ("0 errors", "no error", "error: none").
 */
export const ERROR = {
  source: `(?<!\\b(?:[Nn]o|NO|0|[Ww]ithout|zero)[ -]|\\w)(?:[A-Z]\\w*(?:Error|Exception)|OOMKilled|${SPELT.join("|")})`
    + `(?!\\w|["']?\\s*[:=]\\s*["']?(?:0\\b|(?:none|None|null|false|False|no)\\s*(?:$|[,;"'})\\]])))`,
  flags: "u",
};

/**
 * All lines in which an expression is found, of those that are shown (`isShown(block, index)`). `on.changed` hears when
 * there is more to know, `on.slow` where the expression comes to no end, and `on.broken` where there is no such thread.
 */
export class Search {
  constructor(lines, { source, flags }, isShown, on) {
    this.lines = lines;
    this.asked = { source, flags };
    this.isShown = isShown;
    this.on = on;
    this.found = new Map(); // For each block, the version that was searched, and three numbers for each match.
    this.count = 0;
    this.isDone = false; // Whether all that is there was searched, but for what has come within the last moment.
    this.searched = 0; // The place up to which this turn through the blocks has come.
    this.block = null; // That is being searched.
    this.timer = 0;
    this.worker = new Worker(new URL("searching.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.heard(data));
    this.worker.addEventListener("error", () => {
      this.close();
      this.on.broken();
    });
  }

  close() {
    clearTimeout(this.timer);
    this.worker.terminate();
    this.asked = null;
  }

  /** More lines have come. */
  grown() {
    if (!this.isDone || this.timer) return;
    this.timer = setTimeout(() => {
      this.searched = 0;
      this.step();
    }, LATER);
  }

  heard(said) {
    if (this.asked === null) return;
    if (said !== "ready") this.keep(said);
    this.step();
  }

  keep(said) {
    clearTimeout(this.timer);
    const { block, version, count } = this.block;
    const matches = [];
    for (let at = 0; at < said.length; at += 3) {
      if (this.isShown(block, said[at])) matches.push(said[at], said[at + 1], said[at + 2]);
    }
    this.forget(block);
    this.found.set(block, { version, matches: Int32Array.from(matches) });
    this.count += matches.length / 3;
    this.searched = block.first + count;
  }

  forget(block) {
    this.count -= (this.found.get(block)?.matches.length ?? 0) / 3;
    this.found.delete(block);
  }

  step() {
    this.timer = 0;
    for (const block of this.found.keys()) if (block.first < this.lines.first) this.forget(block);
    const block = this.lines.blocks.find((one) => (
      one.first + one.count > this.searched && this.found.get(one)?.version !== one.version
    ));
    this.isDone = !block;
    if (block) {
      this.block = { block, version: block.version, count: block.count };
      this.timer = setTimeout(() => {
        this.close();
        this.on.slow();
      }, LONGEST);
      this.worker.postMessage({ ...this.asked, texts: block.texts });
    }
    this.on.changed();
  }

  /** The matches of a line: where the first begins and ends; null where there is none. */
  of(place) {
    const block = this.lines.blockOf(place);
    const matches = block && this.found.get(block)?.matches;
    if (!matches) return null;
    const at = behind(matches, place - block.first - 1);
    return matches[at] === place - block.first ? [matches[at + 1], matches[at + 2]] : null;
  }

  /** Which match, counted from 1, is that of a place. */
  ordinal(place) {
    let sum = 0;
    for (const block of this.lines.blocks) {
      const matches = this.found.get(block)?.matches ?? [];
      if (block.first + block.count > place) return sum + behind(matches, place - block.first - 1) / 3 + 1;
      sum += matches.length / 3;
    }
    return sum;
  }

  /** The place of the next match behind a place, or before it: the first or last again at the end; null is not known yet. */
  next(place, isBack) {
    const blocks = isBack ? [...this.lines.blocks].reverse() : this.lines.blocks;
    for (const block of blocks) {
      if (isBack ? block.first >= place : block.first + block.count - 1 <= place) continue;
      const matches = this.found.get(block)?.matches;
      if (!matches) return null;
      const at = isBack ? behind(matches, place - block.first - 1) - 3 : behind(matches, place - block.first);
      if (at >= 0 && at < matches.length) return block.first + matches[at];
    }
    if (!this.isDone || this.count === 0) return null;
    return this.next(isBack ? Infinity : -1, isBack);
  }
}

/** Where, in threes, the matches behind a line of a block begin. */
function behind(matches, index) {
  let low = 0;
  let high = matches.length / 3;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (matches[3 * middle] <= index) low = middle + 1;
    else high = middle;
  }
  return 3 * low;
}

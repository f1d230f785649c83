// What a terminal would show of one stream of a run's output, line by line: ECMA-48 by the states of a VT500's parser.
// What is not known is dropped alone, and never the text beside it. A log is not a screen, so four things differ:
// - A line that has ended stays as it was printed. What moves the cursor to another line (CUU, CUP …) is dropped: each
//   state of a progress bar of several lines has lines of its own, nothing is hidden, and a line keeps its number.
// - A control string (OSC, DCS …) that a line ends in, or that is longer than any that programs send, has lost its end:
//   only what introduced it is dropped. A terminal would swallow all of the output until the next one ends.
// - Concealed text is shown.
// - A line is as wide as is shown of it: it is cut, not wrapped.

/** Characters (UTF-16 units, and columns) of a line that are kept for showing; the download has all of them. */
export const SHOWN = 10_000;
/** Changes of colour in a line; what follows them has the last one's. */
const MOST_RUNS = 400;
/** Characters of a control string, of the parameters of a sequence, and of what follows an escape. */
const LONGEST = { string: 65_536, parameters: 1024, intermediates: 16 };
/** Characters that one column holds, with all that is set above them. */
const PILED = 32;
/** Parameters of a sequence that are read. */
const MOST_PARAMETERS = 64;

const CONTROL = /[\x00-\x08\x0a-\x1f\x7f-\x9f]/g; // A tab is kept, as text that is copied has it.
const PARAMETERS = /[\x20-\x3f]*/y;
const STRING_ENDS = /[\x07\x0a-\x0c\x18\x1a\x1b\x80-\x9f]/g;
const NARROW = /^[\x20-\x7e]*$/;
const NO_WIDTH = /^[\p{M}\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]$/u;
const WIDE = /^[\p{Emoji_Presentation}\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]$/u;

export const FLAGS = { bold: 1, dim: 2, italic: 4, underline: 8, strike: 16, inverse: 32 };
/** The colour that a log has anyway; 0 to 255 are those of the palette, and from `RGB` on there are 24 bits. */
export const DEFAULT = -1;
export const RGB = 0x1000000;
export const PLAIN = Object.freeze({ fore: DEFAULT, ground: DEFAULT, flags: 0 });

const SET = { 1: FLAGS.bold, 2: FLAGS.dim, 3: FLAGS.italic, 7: FLAGS.inverse, 9: FLAGS.strike, 21: FLAGS.underline };
const UNSET = {
  22: FLAGS.bold | FLAGS.dim, 23: FLAGS.italic, 24: FLAGS.underline, 27: FLAGS.inverse, 29: FLAGS.strike,
};

/** A column in which nothing stands; what stands in one is replaced, and never changed. */
const BLANK = Object.freeze([" ", PLAIN]);

/** A line as it is printed. `kind` and the like are whoever's that began it. */
export class Line {
  constructor() {
    this.text = "";
    this.runs = []; // Where each style begins, and the style; what comes before the first is plain.
    this.beyond = 0; // Characters that were cut.
    this.column = null; // Of the cursor; null is behind the last character.
    this.cells = null; // What stands in each column, once something was written over.
  }

  get isAtItsEnd() {
    return this.column === null && this.cells === null;
  }

  print(text, style) {
    if (this.isAtItsEnd) this.append(text, style);
    else this.overwrite(text, style);
  }

  append(text, style) {
    let kept = text.slice(0, SHOWN - this.text.length);
    if (kept.length < text.length && isHighSurrogate(kept.charCodeAt(kept.length - 1))) kept = kept.slice(0, -1);
    this.beyond += text.length - kept.length;
    if (kept) this.paint(this.text.length, style);
    this.text += kept;
  }

  paint(from, style) {
    const last = this.runs.length ? this.runs[this.runs.length - 1][1] : PLAIN;
    if (!same(last, style) && this.runs.length < MOST_RUNS) this.runs.push([from, style]);
  }

  overwrite(text, style) {
    const cells = this.inCells();
    for (const character of text) {
      if (character === "\t") this.moveTo(8 * Math.floor(this.column / 8) + 8, true);
      else if (NO_WIDTH.test(character) && this.column > 0) this.pile(character);
      else this.put(cells, character, style);
    }
  }

  put(cells, character, style) {
    const width = NARROW.test(character) || !WIDE.test(character) ? 1 : 2;
    if (this.column + width > SHOWN) {
      this.beyond += character.length;
      return;
    }
    while (cells.length < this.column) cells.push(BLANK);
    // Half of a wide character is none.
    if (cells[this.column]?.[0] === "") cells[this.column - 1] = BLANK;
    if (cells[this.column + width]?.[0] === "") cells[this.column + width] = BLANK;
    cells[this.column] = [character, style];
    if (width === 2) cells[this.column + 1] = ["", style];
    this.column += width;
  }

  pile(character) {
    const cells = this.inCells();
    const at = cells[this.column - 1]?.[0] === "" ? this.column - 2 : this.column - 1;
    if (cells[at] && cells[at][0].length < PILED) cells[at] = [cells[at][0] + character, cells[at][1]];
    else this.beyond += 1;
  }

  /** The columns, each with what stands there; from now on, they are the line. */
  inCells() {
    if (this.cells === null) {
      const before = this.column;
      const text = this.text;
      const styles = this.runs;
      this.cells = [];
      this.column = 0;
      let run = 0;
      let at = 0;
      for (const character of text) {
        while (run < styles.length && styles[run][0] <= at) run += 1;
        const style = run ? styles[run - 1][1] : PLAIN;
        if (character === "\t") {
          const stop = Math.min(8 * Math.floor(this.column / 8) + 8, SHOWN);
          while (this.cells.length < stop) this.cells.push([" ", style]);
          this.column = stop;
        } else if (NO_WIDTH.test(character) && this.column > 0) this.pile(character);
        else this.put(this.cells, character, style);
        at += character.length;
      }
      if (before !== null) this.column = before;
    }
    return this.cells;
  }

  /** The column of the cursor. */
  where() {
    if (this.column !== null) return this.column;
    if (NARROW.test(this.text)) return this.text.length;
    this.inCells();
    return this.column;
  }

  moveTo(column, isTab = false) {
    const to = Math.max(0, Math.min(column, SHOWN - 1));
    if (isTab && this.cells) while (this.cells.length < to) this.cells.push(BLANK);
    this.column = to;
  }

  /** Leave a blank where something stood from one column up to another. */
  erase(from, to) {
    const cells = this.columns();
    for (let at = from; at < Math.min(to, cells.length); at += 1) cells[at] = BLANK;
    if (cells[from - 1] && cells[from]?.[0] === " " && isWide(cells[from - 1][0])) cells[from - 1] = BLANK;
    if (cells[to]?.[0] === "") cells[to] = BLANK;
    if (to >= cells.length) cells.length = Math.min(from, cells.length);
  }

  remove(count) {
    const cells = this.columns();
    cells.splice(this.column, Math.min(count, SHOWN));
    if (cells[this.column]?.[0] === "") cells[this.column] = BLANK;
  }

  insert(count) {
    const cells = this.columns();
    if (this.column >= cells.length) return;
    cells.splice(this.column, 0, ...new Array(Math.min(count, SHOWN - this.column)).fill(BLANK));
    cells.length = Math.min(cells.length, SHOWN);
  }

  columns() {
    this.column = this.where();
    return this.inCells();
  }

  /** Bring `text` and `runs` up to what the columns hold. */
  settle() {
    if (this.cells === null) return this;
    this.text = "";
    this.runs = [];
    for (const [characters, style] of this.cells) {
      if (characters === "") continue;
      this.paint(this.text.length, style);
      this.text += characters;
    }
    return this;
  }
}

function isHighSurrogate(code) {
  return code >= 0xd800 && code < 0xdc00;
}

function isWide(character) {
  return character !== "" && !NARROW.test(character) && WIDE.test([...character][0]);
}

export function same(one, other) {
  return one === other || (one.fore === other.fore && one.ground === other.ground && one.flags === other.flags);
}

/** One stream's terminal. `begin` gives the line that begins, and `end` hears of each that has ended. */
export class Terminal {
  constructor(begin, end = () => {}) {
    this.begin = begin;
    this.end = end;
    this.line = null;
    this.style = PLAIN;
    this.state = "ground";
    this.held = ""; // Of a sequence or a string that has not ended.
  }

  write(text) {
    let at = 0;
    while (at < text.length) at = this[this.state](text, at);
  }

  /** There will be no more: what was held back for an end of its string is text. */
  finish() {
    if (this.state === "string") this.giveUp();
    this.enter("ground");
  }

  // The states. Each takes what is its own, and returns where that ends.

  ground(text, at) {
    CONTROL.lastIndex = at;
    const next = CONTROL.exec(text)?.index ?? text.length;
    if (next > at) this.here().print(text.slice(at, next), this.style);
    if (next === text.length) return next;
    this.control(text.charCodeAt(next));
    return next + 1;
  }

  escape(text, at) {
    const code = text.charCodeAt(at);
    if (isControl(code)) return this.interrupted(code, at);
    if (code >= 0xa0 || this.held.length >= LONGEST.intermediates) return this.enter("ground", at);
    if (code <= 0x2f) {
      this.held += text[at];
      return at + 1;
    }
    const isWhole = this.held === "";
    this.enter("ground");
    if (isWhole) this.escaped(text[at]);
    return at + 1;
  }

  sequence(text, at) {
    PARAMETERS.lastIndex = at;
    const [taken] = PARAMETERS.exec(text);
    const room = LONGEST.parameters - this.held.length;
    if (taken.length > room) return this.enter("ground", at + room);
    this.held += taken;
    const next = at + taken.length;
    if (next === text.length) return next;
    const code = text.charCodeAt(next);
    if (isControl(code)) return this.interrupted(code, next);
    if (code >= 0xa0) return this.enter("ground", next);
    const parameters = this.held;
    this.enter("ground");
    if (/^[0-9;:]*$/.test(parameters)) this.obey(text[next], parameters);
    return next + 1;
  }

  string(text, at) {
    STRING_ENDS.lastIndex = at;
    const next = STRING_ENDS.exec(text)?.index ?? text.length;
    const room = LONGEST.string - this.held.length;
    if (next - at > room) {
      this.held += text.slice(at, at + room);
      this.giveUp();
      return at + room;
    }
    this.held += text.slice(at, next);
    if (next === text.length) return next;
    const code = text.charCodeAt(next);
    if (code >= 0x0a && code <= 0x0c) {
      this.giveUp();
      return next;
    }
    // A bell ends only what sets a title and the like, as xterm has it; elsewhere it is part of the string.
    if (code === 0x07 && this.introduced !== "]") this.held += text[next];
    else {
      this.enter("ground");
      if (code === 0x1b || (code >= 0x80 && code !== 0x9c)) this.control(code);
    }
    return next + 1;
  }

  /** The string has no end: what it holds is shown. */
  giveUp() {
    const held = this.held;
    this.enter("ground");
    if (held) this.here().print(held.replace(CONTROL, ""), this.style);
  }

  enter(state, at) {
    this.state = state;
    this.held = "";
    return at;
  }

  /** A control in the midst of a sequence is obeyed; CAN, SUB, an escape and those of 8 bits end the sequence. */
  interrupted(code, at) {
    if (code === 0x18 || code === 0x1a || code === 0x1b || code >= 0x80) this.enter("ground");
    this.control(code);
    return at + 1;
  }

  control(code) {
    if (code === 0x08) this.line?.moveTo(this.line.where() - 1);
    else if (code === 0x09) this.here().print("\t", this.style);
    else if (code === 0x0d) this.line?.moveTo(0);
    else if ((code >= 0x0a && code <= 0x0c) || code === 0x84 || code === 0x85) this.endLine();
    else if (code === 0x1b) this.enter("escape");
    else if (code === 0x9b) this.enter("sequence");
    else if (code in STRINGS) this.introduce(STRINGS[code]);
  }

  escaped(final) {
    if (final === "[") this.enter("sequence");
    else if ("P]X^_".includes(final)) this.introduce(final);
    else if (final === "D" || final === "E") this.endLine();
    else if (final === "c") this.style = PLAIN;
  }

  introduce(final) {
    this.enter("string");
    this.introduced = final;
  }

  obey(final, parameters) {
    if (final === "m") this.style = styled(this.style, parameters);
    else if (final in MOVES) MOVES[final](this.here(), Math.min(9999, Number.parseInt(parameters, 10) || 0));
  }

  here() {
    this.line ??= this.begin();
    return this.line;
  }

  endLine() {
    this.end(this.here().settle());
    this.line = null;
  }
}

const STRINGS = { 0x90: "P", 0x98: "X", 0x9d: "]", 0x9e: "^", 0x9f: "_" };

function isControl(code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f);
}

/** What a sequence does within its line, by its final character and its first parameter, 0 where there is none. */
const MOVES = {
  "@": (line, count) => line.insert(count || 1),
  C: (line, count) => line.moveTo(line.where() + (count || 1)),
  a: (line, count) => line.moveTo(line.where() + (count || 1)),
  D: (line, count) => line.moveTo(line.where() - (count || 1)),
  G: (line, column) => line.moveTo((column || 1) - 1),
  "`": (line, column) => line.moveTo((column || 1) - 1),
  J: (line, part) => erasePart(line, part),
  K: (line, part) => erasePart(line, part),
  P: (line, count) => line.remove(count || 1),
  X: (line, count) => line.erase(line.where(), line.where() + (count || 1)),
};

function erasePart(line, part) {
  if (part === 0 && line.isAtItsEnd) return; // As `grep` and compilers ask for it, behind each colour.
  const at = line.where();
  if (part === 0) line.erase(at, Infinity);
  else if (part === 1) line.erase(0, at + 1);
  else if (part === 2) line.erase(0, Infinity);
}

/** A style after a sequence of SGR: parameters apart by `;`, the parts of one by `:`. */
function styled(style, parameters) {
  const asked = parameters.split(";", MOST_PARAMETERS).map((one) => one.split(":").map(Number));
  let { fore, ground, flags } = style;
  for (let place = 0; place < asked.length; place += 1) {
    const [code, ...parts] = asked[place];
    if (code === 0) ({ fore, ground, flags } = PLAIN);
    else if (code === 4) flags = parts[0] === 0 ? flags & ~FLAGS.underline : flags | FLAGS.underline;
    else if (code in SET) flags |= SET[code];
    else if (code in UNSET) flags &= ~UNSET[code];
    else if (code === 38 || code === 48 || code === 58) {
      const [colour, used] = parts.length ? [colourOf(parts), 0] : colourBehind(asked, place);
      place += used;
      if (colour !== null && code === 38) fore = colour;
      if (colour !== null && code === 48) ground = colour;
    } else if (code === 39) fore = DEFAULT;
    else if (code === 49) ground = DEFAULT;
    else if (code >= 30 && code <= 37) fore = code - 30;
    else if (code >= 90 && code <= 97) fore = code - 82;
    else if (code >= 40 && code <= 47) ground = code - 40;
    else if (code >= 100 && code <= 107) ground = code - 92;
  }
  return { fore, ground, flags };
}

/** The colour that the parameters behind one ask for, as xterm has it, and how many those are. */
function colourBehind(asked, place) {
  const length = { 5: 2, 2: 4 }[asked[place + 1]?.[0]] ?? 1;
  const numbers = asked.slice(place + 1, place + 1 + length).map(([number]) => number);
  return [numbers.length < length ? null : colourOf(numbers), length];
}

/** `5, N` of the palette, `2, R, G, B` or, with the number of a colour space, `2, SPACE, R, G, B`; null for what is none. */
function colourOf([model, ...numbers]) {
  if (model === 5) return numbers[0] <= 255 ? numbers[0] : null;
  const rgb = numbers.length > 3 ? numbers.slice(1, 4) : numbers;
  if (model !== 2 || rgb.length < 3 || rgb.some((one) => !(one <= 255))) return null;
  return RGB | (rgb[0] << 16) | (rgb[1] << 8) | rgb[2];
}

// The lines of a log as they come, of all streams in the order in which they began: numbered for each attempt, packed by
// the thousand, and let go of from the first where there are more than a page can keep.

import { Line, Terminal } from "./terminal.js";

/** What is kept at most: lines, and bytes of them with all that they are kept with. A million usual lines are 130 MB. */
const MOST = { lines: 2_000_000, bytes: 160 * 1024 * 1024 };
/** A block is whole with so many lines, or characters. */
const WHOLE = { lines: 1000, characters: 256 * 1024 };
/** Characters that are interpreted without looking at the clock: each of them may move all of a line. */
const PIECE = 1024;
/** Bytes that a line costs besides its characters. */
const LINE_COSTS = 16;

export const KIND = { out: 0, stderr: 1, told: 2 };

/** Lines that follow each other, of one attempt. A packed one is four arrays and a text, whatever it holds. */
class Block {
  constructor(first, attempt) {
    this.first = first;
    this.attempt = attempt;
    this.lines = []; // As they grow; null once they are packed.
    this.characters = 0;
    this.size = 0; // Bytes, once it is packed.
    this.version = 0; // Of what it holds.
    this.packed = null;
    this.counted = {};
  }

  get count() {
    return this.packed ? this.packed.kinds.length : this.lines.length;
  }

  get isWhole() {
    return this.count >= WHOLE.lines || this.characters >= WHOLE.characters;
  }

  pack() {
    const lines = this.lines;
    const runs = [];
    lines.forEach((line, index) => line.runs.forEach(([from, style]) => {
      runs.push(index << 14 | from, (style.fore + 1) << 6 | style.flags, style.ground + 1);
    }));
    const text = lines.map((line) => line.text).join("\n"); // No line has one of its own.
    this.packed = {
      text,
      kinds: Uint8Array.from(lines, (line) => line.kind),
      numbers: Uint32Array.from(lines, (line) => line.number),
      times: Float64Array.from(lines, (line) => line.time),
      lengths: Uint16Array.from(lines, (line) => line.text.length),
      runs: Uint32Array.from(runs), // Three for each: a line has less than 2^14 characters, a colour less than 2^26.
      cut: new Map(lines.flatMap((line, index) => (line.beyond ? [[index, line]] : [])).map(([index, line]) => [
        index, { beyond: line.beyond, stream: line.stream },
      ])),
    };
    const each = /[^\x00-\xff]/.test(text) ? 2 : 1; // As browsers keep them.
    this.size = each * text.length + LINE_COSTS * lines.length + 4 * runs.length;
    this.lines = null;
    this.version += 1;
  }

  /** The texts of its lines. */
  get texts() {
    if (!this.packed) return this.lines.map((line) => line.settle().text);
    let texts = this.split?.deref();
    if (!texts) {
      texts = this.packed.text.split("\n");
      this.split = new WeakRef(texts);
    }
    return texts;
  }

  kind(index) {
    return this.packed ? this.packed.kinds[index] : this.lines[index].kind;
  }

  number(index) {
    return this.packed ? this.packed.numbers[index] : this.lines[index].number;
  }

  length(index) {
    return this.packed ? this.packed.lengths[index] : this.lines[index].text.length;
  }

  /** A line as it is shown. */
  line(index) {
    const place = this.first + index;
    if (!this.packed) return { ...this.lines[index].settle(), place, attempt: this.attempt };
    const { kinds, numbers, times, runs, cut } = this.packed;
    const found = [];
    for (let at = firstRun(runs, index); at < runs.length && runs[at] >> 14 === index; at += 3) {
      const [where, fore, ground] = runs.subarray(at, at + 3);
      found.push([where & 0x3fff, { fore: (fore >>> 6) - 1, ground: ground - 1, flags: fore & 63 }]);
    }
    return {
      place, attempt: this.attempt, kind: kinds[index], number: numbers[index], time: times[index],
      text: this.texts[index], runs: found, beyond: 0, ...cut.get(index),
    };
  }

  /** In how many rows a line is shown, of so many columns each; in none where only others are shown. */
  rowsOf(index, { columns, alone }) {
    const kind = this.kind(index);
    if (alone && kind === KIND.out) return 0;
    return columns === Infinity ? 1 : Math.max(1, Math.ceil(this.length(index) / columns));
  }

  /** In how many rows it is shown. */
  rows(how) {
    if (!how.alone && how.columns === Infinity) return this.count;
    const { columns, alone, version, rows } = this.counted;
    if (columns === how.columns && alone === how.alone && version === this.version) return rows;
    let sum = 0;
    for (let index = 0; index < this.count; index += 1) sum += this.rowsOf(index, how);
    this.counted = { ...how, version: this.version, rows: sum };
    return sum;
  }
}

/** Where the runs of a line begin, in the runs of its block. */
function firstRun(runs, index) {
  let low = 0;
  let high = runs.length / 3;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (runs[3 * middle] >> 14 < index) low = middle + 1;
    else high = middle;
  }
  return 3 * low;
}

export class Lines {
  constructor(most = MOST) {
    this.most = most;
    this.blocks = [];
    this.count = 0; // Of all places, those that were let go of too.
    this.size = 0; // Bytes of the packed blocks.
    this.streams = new Map(); // The terminal and the decoder of each.
    this.attempt = 1;
    this.number = 0;
    this.time = 0;
    this.version = 0;
    this.holdsFrom = null; // The number of a line from which on nothing is let go of.
  }

  /** The first place that is kept. */
  get first() {
    return this.blocks.length ? this.blocks[0].first : this.count;
  }

  /** Whether nothing more can be kept, since nothing may be let go of. */
  get isFull() {
    return this.holdsFrom !== null && this.number >= this.holdsFrom && this.isTooMuch;
  }

  get isTooMuch() {
    return this.size > this.most.bytes || this.count - this.first > this.most.lines;
  }

  feed(chunk) {
    for (const _ of this.taking(chunk)) ;
  }

  /** Take a chunk, piece by piece: whoever iterates may leave off between two of them, and go on later. */
  *taking(chunk) {
    const { terminal, decoder } = this.stream(chunk.stream);
    const text = chunk.text !== undefined && !decoder.isWithin
      ? chunk.text
      : decoder.decode(chunk.text === undefined ? bytesOf(chunk.base64) : encoder.encode(chunk.text));
    this.time = Date.parse(chunk.at);
    for (let at = 0; at < text.length;) {
      let next = at + PIECE;
      if (next < text.length && (text.charCodeAt(next) & 0xfc00) === 0xdc00) next += 1; // A pair stays one.
      terminal.write(text.slice(at, next));
      this.changed(terminal.line);
      this.letGo();
      at = next;
      yield;
    }
  }

  stream(name) {
    if (!this.streams.has(name)) {
      const terminal = new Terminal(() => this.begin(name), (line) => this.ended(line));
      this.streams.set(name, { terminal, decoder: new Decoder() });
    }
    return this.streams.get(name);
  }

  begin(stream) {
    this.number += 1;
    return this.put(new Line(), stream === "stderr" ? KIND.stderr : KIND.out, stream);
  }

  put(line, kind, stream) {
    const last = this.blocks[this.blocks.length - 1];
    if (!last || last.isWhole || last.packed || last.attempt !== this.attempt) {
      this.blocks.push(new Block(this.count, this.attempt));
      if (last) this.packIfItEnded(last);
    }
    const block = this.blocks[this.blocks.length - 1];
    Object.assign(line, { kind, stream, number: this.number, time: this.time, block, isOpen: kind !== KIND.told });
    block.lines.push(line);
    this.count += 1;
    this.changed(line);
    return line;
  }

  ended(line) {
    line.isOpen = false;
    line.block.characters += line.text.length;
    this.changed(line);
    this.packIfItEnded(line.block);
  }

  packIfItEnded(block) {
    if (block.packed || block === this.blocks[this.blocks.length - 1] || block.lines.some((line) => line.isOpen)) return;
    block.pack();
    this.size += block.size;
  }

  changed(line) {
    this.version += 1;
    if (line) line.block.version += 1;
  }

  /** Something that is told of the log, and is not in it: no line goes on behind it. */
  tell(text) {
    this.endLines();
    this.put(Object.assign(new Line(), { text }), KIND.told, "");
  }

  /** What comes now is of this attempt, and no line of another goes on. */
  beginAttempt(attempt) {
    this.finish();
    this.attempt = attempt;
    this.number = 0;
  }

  /** No more is to come for the lines that are open. */
  finish() {
    for (const { terminal, decoder } of this.streams.values()) {
      terminal.write(decoder.finish());
      terminal.finish();
    }
    this.endLines();
    this.streams.clear();
    this.letGo();
  }

  endLines() {
    for (const { terminal } of this.streams.values()) {
      if (terminal.line) this.ended(terminal.line.settle());
      terminal.line = null;
    }
  }

  letGo() {
    if (this.holdsFrom !== null && this.number >= this.holdsFrom) return;
    while (this.isTooMuch && this.blocks.length > 1) {
      const block = this.blocks.shift();
      if (block.packed) this.size -= block.size;
      // A line that is still open there goes on in one of its own.
      for (const { terminal } of this.streams.values()) if (terminal.line?.block === block) terminal.line = null;
      this.version += 1;
    }
  }

  /** The block that a place is in, or the next; undefined behind the last. */
  blockOf(place) {
    let low = 0;
    let high = this.blocks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.blocks[middle].first + this.blocks[middle].count <= place) low = middle + 1;
      else high = middle;
    }
    return this.blocks[low];
  }

  line(place) {
    const block = this.blockOf(place);
    return block && place >= block.first ? block.line(place - block.first) : undefined;
  }

  /** The place of a line by its number; null where it is not here. */
  placeOf(attempt, number) {
    for (const block of this.blocks) {
      if (block.attempt !== attempt || !block.count || block.number(block.count - 1) < number) continue;
      for (let index = 0; index < block.count; index += 1) {
        if (block.number(index) === number && block.kind(index) !== KIND.told) return block.first + index;
        if (block.number(index) > number) return null;
      }
    }
    return null;
  }
}

const encoder = new TextEncoder();

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** Bytes to text. A character may be cut in two between chunks. */
class Decoder {
  constructor() {
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    this.isWithin = false; // Whether it may hold a part of a character.
  }

  decode(bytes) {
    this.isWithin = endsWithin(bytes) || (this.isWithin && bytes.every(goesOn));
    return this.decoder.decode(bytes, { stream: true });
  }

  finish() {
    return this.decoder.decode();
  }
}

function goesOn(byte) {
  return byte >= 0x80 && byte < 0xc0;
}

/** Whether bytes of UTF-8 end in the midst of a character. */
function endsWithin(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (!goesOn(byte)) return byte >= 0xc0 && back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
  }
  return false;
}

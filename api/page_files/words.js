// Text of others, lengths of time, moments, numbers and ids, as a person reads them.

/**
 * What is not seen as itself, as models/text.py has it. A line end and a tab are left: in a page they are blanks, and forge
 * nothing.
 */
const ACTS = /(?![ \t\n])[\p{C}\p{Z}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0e\uffa0\u{e0100}-\u{e01ef}]/gu;

/** Text from elsewhere as what does nothing but stand there, escaped as `shown` of models/text.py does it. */
export function shown(text) {
  return String(text).replace(ACTS, (character) => {
    if (character === "\r") return "\\r";
    const number = character.codePointAt(0);
    const [sign, length] = number < 0x100 ? ["x", 2] : number < 0x10000 ? ["u", 4] : ["U", 8];
    return `\\${sign}${number.toString(16).padStart(length, "0")}`;
  });
}

let ahead = 0; // What the database's clock is ahead of ours, in milliseconds.

/** From now on, the time is counted by the database's clock. */
export function setClock(moment) {
  ahead = Date.parse(moment) - Date.now();
}

/** The database's time, in milliseconds. */
export function now() {
  return Date.now() + ahead;
}

export function span(seconds) {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (hours < 1) return both(minutes, "min", Math.floor(seconds % 60), "s");
  return hours < 48 ? both(hours, "h", minutes % 60, "min") : `${Math.floor(hours / 24)} days`;
}

function both(large, itsUnit, small, unit) {
  return `${large} ${itsUnit}${small ? ` ${small} ${unit}` : ""}`;
}

export function ago(moment) {
  return (now() - Date.parse(moment)) / 1000;
}

const TIME = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const DAY = { month: "short", day: "numeric" };

/** A time of day, to the second, of a moment in milliseconds or as the API writes it. */
export function clock(moment) {
  return new Date(moment).toLocaleTimeString("en", { ...TIME, second: "2-digit" });
}

/** A moment in the reader's time zone, as short as it can be: "today 03:12", "Nov 29 03:12", "Nov 29 2025". */
export function day(moment) {
  const [at, today] = [new Date(moment), new Date(now())];
  if (at.toDateString() === today.toDateString()) return `today ${at.toLocaleTimeString("en", TIME)}`;
  const its = at.toLocaleDateString("en", DAY);
  return at.getFullYear() === today.getFullYear() ? `${its} ${at.toLocaleTimeString("en", TIME)}` : `${its} ${at.getFullYear()}`;
}

/** A moment to the second, with its date and its time zone. */
export function exact(moment) {
  return new Date(moment).toLocaleString("en", { dateStyle: "full", timeStyle: "long", hourCycle: "h23" });
}

export function short(id) {
  return id.slice(id.lastIndexOf("-") + 1);
}

export function many(count) {
  return count === 1 ? "1 run" : `${grouped(count)} runs`;
}

/** A number as a person reads it: 1,000,000. */
export function grouped(count) {
  return count.toLocaleString("en");
}

/** What a run says that it used, as models/saying.py shows it: a small sum is none that is nothing. */
export function amount(sum) {
  if (Number.isInteger(sum)) return grouped(sum);
  return sum.toLocaleString("en", sum < 1e6 ? { maximumSignificantDigits: 6 } : { maximumFractionDigits: 0 });
}

/** How far a run is, from 0 to 1, likewise: whole percents, and 100 % for what is done alone. */
export function percent(progress) {
  return `${Math.floor(100 * progress + 1e-9)} %`;
}

/** Bytes in words, in powers of 1000, as `volume` of models/text.py has them: `1.2 MB`. */
export function volume(size) {
  return sized(size, 1000, ["B", "kB", "MB", "GB", "TB"]);
}

/** An amount of memory in words, in powers of 1024, as limits are given: `512 MiB`. */
export function inMemory(size) {
  return sized(size, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
}

function sized(size, step, units) {
  const place = units.findIndex((_, power) => size < step ** (power + 1));
  const most = place < 0 ? units.length - 1 : place;
  const amount = size / step ** most;
  return `${amount.toFixed(most && amount < 10 && amount % 1 ? 1 : 0)} ${units[most]}`;
}

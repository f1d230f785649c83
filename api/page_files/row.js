// One line of a log as an element. All of it is text: what a run prints makes no element and no address but http(s).

import { colour, readable, written } from "./colours.js";
import { KIND } from "./lines.js";
import { FLAGS, PLAIN } from "./terminal.js";
import { made } from "./view.js";
import { clock, exact, grouped } from "./words.js";

const CLASSES = { bold: "b", dim: "d", italic: "i", underline: "u", strike: "s" };
/** An address ends where it can no longer be one, and before the mark that ends its sentence. */
const ADDRESS = /\bhttps?:\/\/[^\s<>"'`{}|\\^\u0000-\u0020\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069]*[^\s<>"'`{}|\\^.,;:!?)\]*\u0000-\u0020\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069]/gi;
/** Characters that turn the text beside them around, or end a line where there is none: shown by their numbers. */
const HIDDEN = /[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
/** Pieces of all lines that are drawn at once: each is an element, and a browser takes some 15 ms for a thousand. */
export const MOST_PIECES = 3000;

/** A line's element. `look` says how it is looked at: `href` of its number, whether it is `marked` or `current`, `match`, `most` pieces. */
export function rowOf(line, look) {
  const row = made("div", { className: `row ${["stdout", "stderr", "told"][line.kind]}` });
  row.classList.toggle("marked", look.marked);
  row.classList.toggle("found", look.current);
  row.classList.toggle("match", look.match !== null);
  const isTold = line.kind === KIND.told;
  row.append(isTold ? made("span", { className: "number" }) : number(line, look.href));
  if (look.times) row.append(isTold ? made("span", { className: "time" }) : time(line));
  const text = made("span", { className: "text" });
  for (const piece of pieces(line.text, line.runs, look.match, look.most)) text.append(elementOf(piece, look));
  if (line.beyond) text.append(cut(line, look.download));
  row.append(text);
  return row;
}

/** Shown by the style sheet and not part of the text, so that it is not in what is copied. */
function number(line, href) {
  const link = made("a", { className: "number", href, tabIndex: -1 });
  link.dataset.number = line.number;
  link.setAttribute("aria-label", `Line ${line.number}`);
  return link;
}

function time(line) {
  const at = new Date(line.time);
  const element = made("time", { className: "time", dateTime: at.toISOString(), title: exact(line.time) });
  element.dataset.time = `${clock(line.time)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
  return element;
}

function cut(line, download) {
  const size = grouped(line.text.length + line.beyond);
  return made("span", { className: "cut" }, ` … cut: the line has ${size} characters; `,
    made("a", { href: download(line), download: "", textContent: "download it" }));
}

/**
 * A text in pieces: `{text, style, href, isMatch, isHidden}`, each of which looks the same throughout. Where there would
 * be many more than `most`, the last colour goes on, and the last addresses cannot be clicked.
 */
export function pieces(text, allRuns, match = null, most = MOST_PIECES) {
  const links = [];
  for (const found of text.matchAll(ADDRESS)) {
    if (2 * links.length >= most) break;
    // What stands in brackets ends before theirs, and not before its own.
    const its = found[0].split("(").length > found[0].split(")").length && text[found.index + found[0].length] === ")";
    const address = its ? `${found[0]})` : found[0];
    links.push([found.index, found.index + address.length, address]);
  }
  const hidden = [];
  for (const { index } of text.matchAll(HIDDEN)) if (2 * hidden.push(index) >= most - 2 * links.length) break;
  const runs = allRuns.slice(0, Math.max(1, most - 2 * links.length - 2 * hidden.length));
  const cuts = new Set([0, text.length, ...(match ?? [])]);
  for (const [from] of runs) cuts.add(from);
  for (const [from, to] of links) cuts.add(from).add(to);
  for (const index of hidden) cuts.add(index).add(index + 1);
  const places = [...cuts].sort((one, other) => one - other);
  const found = [];
  let run = 0;
  let link = 0;
  for (let at = 0; at < places.length - 1; at += 1) {
    const [from, to] = [places[at], places[at + 1]];
    while (run < runs.length && runs[run][0] <= from) run += 1;
    while (link < links.length && links[link][1] <= from) link += 1;
    found.push({
      text: text.slice(from, to),
      style: run ? runs[run - 1][1] : PLAIN,
      href: links[link] && links[link][0] <= from ? links[link][2] : null,
      isMatch: match !== null && match[0] <= from && to <= match[1],
      isHidden: to === from + 1 && text.slice(from, to).search(HIDDEN) === 0,
    });
  }
  return found;
}

function elementOf({ text, style, href, isMatch, isHidden }, look) {
  // Of those that are too many to be pieces, each is shown as what is no character.
  const safe = text.replace(HIDDEN, "\ufffd");
  const isPlain = style === PLAIN && !href && !isMatch && !isHidden;
  if (isPlain) return document.createTextNode(safe);
  const element = href
    ? made("a", { href, target: "_blank", rel: "noopener noreferrer" })
    : made(isMatch ? "mark" : "span");
  element.textContent = isHidden ? `U+${text.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}` : safe;
  if (isMatch && href) element.classList.add("is-match");
  if (isHidden) element.classList.add("hidden");
  for (const [name, letter] of Object.entries(CLASSES)) if (style.flags & FLAGS[name]) element.classList.add(letter);
  if (!isMatch && !isHidden) dye(element, style, look);
  return element;
}

/** By the script and not by classes: a run may ask for any of 16 million colours. */
function dye(element, style, { text, ground }) {
  let [fore, under] = [colour(style.fore, false), colour(style.ground, true)];
  if (style.flags & FLAGS.inverse) [fore, under] = [under ?? ground, fore ?? text];
  if (under !== null) element.style.backgroundColor = written(under);
  if (fore !== null || under !== null) element.style.color = written(readable(fore ?? text, under ?? ground));
}

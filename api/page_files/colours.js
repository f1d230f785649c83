// The colours of a log, as numbers of 24 bits. Whatever a run asks for can be read on what it stands on.

import { DEFAULT, RGB } from "./terminal.js";

/** Of text: black to white, and the same, bright. */
const PALETTE = [
  0x7d8783, 0xff7b72, 0x7fd99a, 0xe2c35a, 0x8ab4f8, 0xe59bf0, 0x72d8d8, 0xd8dedb,
  0x98a39e, 0xffa198, 0xa5ecba, 0xf5dd8c, 0xb3cffb, 0xf0bcf7, 0xa0eaea, 0xffffff,
];
/** Of what text stands on, where it is not bright. */
const GROUNDS = [0x000000, 0x7a1d18, 0x1d5a31, 0x6a5310, 0x1f3f7a, 0x5f2568, 0x145a5a, 0x9aa5a0];
const LEVELS = [0, 95, 135, 175, 215, 255];
/** The contrast that WCAG asks for. */
const ENOUGH = 4.5;

/** A colour of the terminal's as a number of 24 bits; null for the one that a log has anyway. */
export function colour(asked, isGround) {
  if (asked === DEFAULT) return null;
  if (asked >= RGB) return asked - RGB;
  if (asked < 16) return (isGround ? GROUNDS[asked] : undefined) ?? PALETTE[asked];
  if (asked >= 232) return 0x010101 * (8 + 10 * (asked - 232));
  const place = asked - 16;
  return (LEVELS[Math.floor(place / 36)] << 16) | (LEVELS[Math.floor(place / 6) % 6] << 8) | LEVELS[place % 6];
}

/** The colour, or the nearest towards white or black that can be read on this ground. */
export function readable(fore, ground) {
  const aim = contrast(0xffffff, ground) > contrast(0, ground) ? 0xffffff : 0;
  for (let share = 0; share < 1; share += 0.1) {
    const mixed = mix(fore, aim, share);
    if (contrast(mixed, ground) >= ENOUGH) return mixed;
  }
  return aim;
}

export function contrast(one, other) {
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function parts(colour) {
  return [colour >> 16, (colour >> 8) & 255, colour & 255];
}

/** The relative luminance, as WCAG has it. */
function light(colour) {
  const [red, green, blue] = parts(colour).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function mix(from, to, share) {
  const aims = parts(to);
  return parts(from).reduce((sum, part, place) => (sum << 8) | Math.round(part + (aims[place] - part) * share), 0);
}

/** As CSS writes it. */
export function written(colour) {
  return `#${colour.toString(16).padStart(6, "0")}`;
}

/** A colour as the browser computed it. */
export function read(css) {
  const [red, green, blue] = (css.match(/\d+/g) ?? [0, 0, 0]).map(Number);
  return (red << 16) | (green << 8) | blue;
}

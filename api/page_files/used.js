// What an attempt used over its life, as a picture: memory as an area, processors as a line, each up to its own highest.

import { inMemory, span } from "./words.js";

const WIDTH = 600; // As the viewBox has it; the picture is as wide as the page.
const HEIGHT = 60;
const SVG = "http://www.w3.org/2000/svg";

/** Between each two samples, how many processors were at work. */
function rates(samples) {
  return samples.slice(1).map((one, place) => {
    const seconds = (Date.parse(one.at) - Date.parse(samples[place].at)) / 1000;
    return seconds > 0 ? Math.max(0, (one.cpu_seconds - samples[place].cpu_seconds) / seconds) : 0;
  });
}

/** What the picture shows, in words. */
export function words(samples) {
  const most = Math.max(...samples.map((one) => one.memory_bytes ?? 0));
  const busiest = Math.max(0, ...rates(samples));
  const length = (Date.parse(samples.at(-1).at) - Date.parse(samples[0].at)) / 1000;
  return `Over ${span(length)}: memory up to ${inMemory(most)} (area), up to ${busiest.toFixed(busiest < 10 ? 1 : 0)} processors (line).`;
}

/** The picture: fewer than two samples make none. */
export function pictured(samples) {
  if (samples.length < 2) return [];
  const [from, to] = [Date.parse(samples[0].at), Date.parse(samples.at(-1).at)];
  const x = (one) => (WIDTH * (Date.parse(one.at) - from)) / Math.max(to - from, 1);
  const y = (value, most) => HEIGHT - (HEIGHT - 2) * (value / Math.max(most, 1e-9));
  const memory = samples.map((one) => one.memory_bytes ?? 0);
  const busy = rates(samples);
  const area = samples.map((one, place) => `${x(one)},${y(memory[place], Math.max(...memory))}`);
  const line = busy.flatMap((rate, place) => {
    const height = y(rate, Math.max(...busy));
    return [`${x(samples[place])},${height}`, `${x(samples[place + 1])},${height}`];
  });
  return [shape("polygon", "memory", [`0,${HEIGHT}`, ...area, `${WIDTH},${HEIGHT}`]), shape("polyline", "processors", line)];
}

function shape(tag, name, points) {
  const made = document.createElementNS(SVG, tag);
  made.setAttribute("class", name);
  made.setAttribute("points", points.join(" "));
  return made;
}

// The fleet's last hour as a picture: what began stands above the line, what ended below it, the reaped at the very end.

const WIDTH = 600; // As the viewBox has it; the picture is as wide as the page.
const MIDDLE = 40;
const SVG = "http://www.w3.org/2000/svg";

function bar(name, x, y, width, height) {
  const made = document.createElementNS(SVG, "rect");
  for (const [key, value] of Object.entries({ class: name, x, y, width, height })) made.setAttribute(key, value);
  return made;
}

/** The bars of a history. The tallest fills its half; a single run among thousands can still be seen. */
export function bars({ started, ended, reaped }) {
  const width = WIDTH / started.length;
  const most = Math.max(1, ...started, ...started.map((_, at) => ended[at] + reaped[at]));
  const height = (count) => (count ? Math.max(2, (count / most) * (MIDDLE - 2)) : 0);
  return [
    ...started.flatMap((_, at) => {
      const x = at * width;
      const below = height(ended[at]);
      return [
        bar("started", x, MIDDLE - 1 - height(started[at]), width - 1, height(started[at])),
        bar("ended", x, MIDDLE + 1, width - 1, below),
        bar("reaped", x, MIDDLE + 1 + below, width - 1, height(reaped[at])),
      ];
    }).filter((one) => one.getAttribute("height") !== "0"),
    bar("axis", 0, MIDDLE - 1, WIDTH, 2),
  ];
}

/** The same in words. */
export function words({ started, ended, reaped }, span) {
  const [begun, over, dead] = [started, ended, reaped].map((counts) => counts.reduce((sum, count) => sum + count, 0));
  return `Last ${span}: began ${begun} (above the line), ended ${over} (below it), reaped ${dead} (in red).`;
}

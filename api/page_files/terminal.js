// What a terminal would show of a run's output: bytes to lines, carriage returns, colours. Nothing is interpreted as HTML.

const encoder = new TextEncoder();

export function bytesOf(chunk) {
  return chunk.text === undefined ? Uint8Array.from(atob(chunk.base64), (c) => c.charCodeAt(0)) : encoder.encode(chunk.text);
}

/** Lines as they grow, of all streams in the order in which they came. */
export class Lines {
  constructor() {
    this.all = [];
    this.open = new Map();
    this.decoders = new Map();
  }

  feed(chunk) {
    // A character may be cut in two between chunks.
    if (!this.decoders.has(chunk.stream)) this.decoders.set(chunk.stream, new TextDecoder());
    const text = this.decoders.get(chunk.stream).decode(bytesOf(chunk), { stream: true });
    const parts = text.split("\n");
    parts.forEach((part, place) => {
      if (part === "" && place === parts.length - 1) return; // The next line has not begun.
      const line = this.open.get(chunk.stream) ?? this.begin(chunk.stream);
      line.text = overwritten(line.text + part);
      if (place < parts.length - 1) {
        line.text = line.text.replace(/\r$/, "");
        this.open.delete(chunk.stream);
      }
    });
  }

  begin(stream) {
    const line = { stream, text: "" };
    this.all.push(line);
    this.open.set(stream, line);
    return line;
  }

  /** Something that is told of the log, and is not in it. */
  tell(text) {
    this.open.clear();
    this.all.push({ stream: "told", text });
  }
}

/** A line after its carriage returns: what follows one is written over what was there. One at the end waits. */
export function overwritten(text) {
  if (!text.includes("\r")) return text;
  const last = text.endsWith("\r") ? "\r" : "";
  const parts = text.slice(0, text.length - last.length).split("\r").filter((part) => part !== "");
  return parts.reduce((shown, part) => (/\x1b/.test(shown + part) ? part : part + shown.slice(part.length)), "") + last;
}

/** The pieces of a line with the classes of their colours; other control sequences are left out. */
export function pieces(text) {
  const found = [];
  let style = {};
  for (const part of text.split(/(\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_])/)) {
    const colours = /^\x1b\[([0-9;]*)m$/.exec(part);
    if (colours) style = styled(style, colours[1]);
    else if (!part.startsWith("\x1b")) {
      const shown = part.replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "");
      if (shown) found.push([Object.values(style).join(" "), shown]);
    }
  }
  return found;
}

function styled(style, codes) {
  const numbers = codes.split(";").map(Number);
  let next = { ...style };
  for (let place = 0; place < numbers.length; place += 1) {
    const code = numbers[place];
    if (code === 0) next = {};
    else if (code === 1) next.bold = "b";
    else if (code === 2) next.dim = "d";
    else if (code === 3) next.italic = "i";
    else if (code === 4) next.underline = "u";
    else if (code === 22) delete next.bold, delete next.dim;
    else if (code === 23) delete next.italic;
    else if (code === 24) delete next.underline;
    else if (code === 38 || code === 48) place += numbers[place + 1] === 5 ? 2 : 4; // Of 256, and of all: the default.
    else if (code === 39) delete next.fore;
    else if (code === 49) delete next.ground;
    else if (code >= 30 && code <= 37) next.fore = `f${code - 30}`;
    else if (code >= 90 && code <= 97) next.fore = `f${code - 90}`;
    else if (code >= 40 && code <= 47) next.ground = `g${code - 40}`;
  }
  return next;
}

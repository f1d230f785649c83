// Follows a run from a service in JavaScript: node follow.mjs http://127.0.0.1:8000 RUN, with a token in REPRIEVE_TOKEN.
// Nothing but Node 18 or later. It comes back after every cut, to where it was: no line is missed, none comes twice.

const [server, run] = process.argv.slice(2);
const token = process.env.REPRIEVE_TOKEN;
const seconds = (count) => new Promise((resolve) => setTimeout(resolve, count * 1000));

/** The events of one connection, as they come; `place` is the id of the last one that came before. */
async function* events(place) {
  const headers = { Accept: "text/event-stream" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (place) headers["Last-Event-ID"] = place;
  const answer = await fetch(`${server}/v1/runs/${run}/log/live`, { headers });
  if (answer.status >= 400 && answer.status < 500) throw new Error((await answer.json()).detail); // Not worth coming back.
  if (answer.status !== 200) return;
  let text = "";
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    text += part.replaceAll("\r", "");
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const fields = text.slice(0, end).split("\n").filter((line) => !line.startsWith(":"));
      if (fields.length) yield Object.fromEntries(fields.map((line) => line.split(/: ?(.*)/s)));
    }
  }
}

let place = null;
for (let ended = false; !ended; ) {
  try {
    for await (const { event, id, data } of events(place)) {
      place = id;
      if (event === "output") for (const chunk of JSON.parse(data).chunks) {
        const bytes = chunk.text ?? Buffer.from(chunk.base64, "base64");
        (chunk.stream === "stderr" ? process.stderr : process.stdout).write(bytes);
      }
      if (event === "gap") console.error(`(chunks ${JSON.parse(data).first} to ${JSON.parse(data).last} are missing)`);
      if ((ended = event === "end")) break;
    }
  } catch (problem) {
    if (!(problem instanceof TypeError)) throw problem; // What fetch throws when it is cut off, or nobody is there.
  }
  if (!ended) await seconds(1);
}

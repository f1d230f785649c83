// The output of a run as it comes.

const COME_BACK = 2000; // Milliseconds after which a stream that the browser gave up is opened again.

/**
 * Follow the output of a run from a place on, `{attempt, after}`, through all its attempts. `on` hears of `output` (what
 * the API's event holds), of each `gap`, of the `state` in a sentence ("" where all is well), and of the `end`.
 * A browser comes back by itself after a cut; where it gives up, we come back for it. Returns how it is let go.
 */
export function follow(id, from, on) {
  let source;
  let timer = 0;
  let place = `${from.attempt}:${from.after}`;
  const open = () => {
    const [attempt, after] = place.split(":");
    source = new EventSource(`v1/runs/${id}/log/live?attempt=${attempt}&after=${after}`);
    source.addEventListener("open", () => on.state(""));
    for (const name of ["output", "gap"]) {
      source.addEventListener(name, (event) => {
        place = event.lastEventId;
        on[name](JSON.parse(event.data));
      });
    }
    source.addEventListener("unavailable", (event) => on.state(JSON.parse(event.data).detail));
    source.addEventListener("end", () => {
      source.close();
      on.end();
    });
    source.addEventListener("error", () => {
      on.state("Cut off; coming back …");
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, COME_BACK);
    });
  };
  open();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}

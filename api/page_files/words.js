// Lengths of time, moments and ids, as a person reads them.

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

export function short(id) {
  return id.slice(id.lastIndexOf("-") + 1);
}

export function many(count) {
  return count === 1 ? "1 run" : `${count} runs`;
}

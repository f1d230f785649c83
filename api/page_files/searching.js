// Searches texts on a thread of its own: an expression that takes for ever blocks nothing, and is ended from outside.

addEventListener("message", ({ data: { source, flags, texts } }) => {
  const expression = new RegExp(source, flags);
  const found = [];
  texts.forEach((text, index) => {
    const match = expression.exec(text);
    if (match) found.push(index, match.index, match.index + match[0].length);
  });
  postMessage(Int32Array.from(found));
});
postMessage("ready");

// What a head looks at on the sample text: a picture of queries and keys, the text itself, and the strongest pairs.

const SHOWN_PAIRS = 6;
const PIXELS = 9; // of a pair on the screen
let patternBytes = null;

// weight(query, key) of a head on the sample; null if there is no pattern of it.
function weightsOf(place) {
  const at = data.patterns?.places[place] ?? -1;
  if (at < 0) return null;
  patternBytes ??= Uint8Array.from(atob(data.patterns.bytes), (letter) => letter.charCodeAt(0));
  const size = data.patterns.tokens.length;
  const start = at * ((size * (size + 1)) / 2);
  return (query, key) => (key > query ? 0 : (patternBytes[start + (query * (query + 1)) / 2 + key] / 255) ** 2);
}

// A token as one can read it: blanks and line ends are drawn.
function tokenText(token) {
  return token.replace(/\n/g, "↵").replace(/\r/g, "␍").replace(/\t/g, "⇥").replace(/[\u0000-\u001f\u007f\u2028\u2029]/g, "�") || "∅";
}

function quoted(token) {
  return `“${tokenText(token)}”`;
}

function patternView(place) {
  const weight = weightsOf(place);
  if (!weight) return null;
  const tokens = data.patterns.tokens;
  const name = heads[place].name;
  const canvas = make("canvas", {
    tabindex: 0, role: "application", "aria-roledescription": "attention pattern", class: "pattern",
    "aria-label": `Attention pattern of ${name} on ${tokens.length} tokens. Arrow keys move: up and down the token that looks, left and right the token it looks at.`,
  });
  const readout = make("p", { class: "readout", "aria-live": "polite" }, "Point at the picture or at a word, or move with the arrow keys.");
  const words = tokens.map((token, at) => make("span", { "data-at": at }, tokenText(token)));
  const strip = make("p", { class: "strip" }, ...words);
  const view = { canvas, readout, words, weight, tokens, query: tokens.length - 1, key: 0 };
  paint(view);
  listen(view, strip);
  whenThemed.push(() => canvas.isConnected && paint(view));
  return [canvas, readout, strip, strongest(view)];
}

function listen(view, strip) {
  const last = view.tokens.length - 1;
  view.canvas.addEventListener("pointermove", (event) => {
    const box = view.canvas.getBoundingClientRect();
    const at = (offset, size) => Math.min(Math.max(Math.floor((offset / size) * view.tokens.length), 0), last);
    const query = at(event.clientY - box.top, box.height);
    look(view, query, Math.min(at(event.clientX - box.left, box.width), query));
  });
  view.canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || event.altKey || event.metaKey || event.ctrlKey) return;
    event.preventDefault();
    const query = Math.min(Math.max(view.query + step[0], 0), last);
    look(view, query, Math.min(Math.max(view.key + step[1], 0), query));
  });
  view.canvas.addEventListener("focus", () => look(view, view.query, view.key));
  strip.addEventListener("pointerover", (event) => {
    const word = event.target.closest("[data-at]");
    if (word) look(view, Number(word.dataset.at), best(view, Number(word.dataset.at)));
  });
}

function best(view, query) {
  let found = 0;
  for (let key = 1; key <= query; key++) if (view.weight(query, key) > view.weight(query, found)) found = key;
  return found;
}

// One pair in words; the text is coloured by what the query looks at.
function look(view, query, key) {
  Object.assign(view, { query, key });
  const { tokens, words } = view;
  view.readout.replaceChildren(
    make("b", {}, quoted(tokens[query])), ` (token ${query}) gives `, make("b", {}, percent(view.weight(query, key))),
    " of its attention to ", make("b", {}, quoted(tokens[key])), key === query ? " (itself)" : ` (token ${key}, ${query - key} back)`,
  );
  words.forEach((word, at) => {
    const depth = at <= query ? Math.sqrt(view.weight(query, at)) : 0;
    word.style.setProperty("--depth", `${Math.round(70 * depth)}%`);
    word.className = at === query ? "query" : at > query ? "later" : "";
  });
  paint(view);
}

function paint(view) {
  const { canvas, tokens } = view;
  const size = tokens.length;
  const style = getComputedStyle(document.documentElement);
  const [paper, deep, edge] = ["--card", "--deep", "--ink"].map((name) => channels(style.getPropertyValue(name)));
  canvas.width = canvas.height = size * PIXELS;
  canvas.style.maxWidth = `${size * PIXELS}px`;
  const pen = canvas.getContext("2d");
  for (let query = 0; query < size; query++) {
    for (let key = 0; key <= query; key++) {
      const depth = 0.04 + 0.96 * Math.sqrt(view.weight(query, key));
      pen.fillStyle = `rgb(${paper.map((value, i) => Math.round(value + depth * (deep[i] - value))).join(",")})`;
      pen.fillRect(key * PIXELS, query * PIXELS, PIXELS, PIXELS);
    }
  }
  if (document.activeElement === canvas || canvas.matches(":hover")) {
    pen.strokeStyle = `rgb(${edge.join(",")})`;
    pen.strokeRect(view.key * PIXELS + 0.5, view.query * PIXELS + 0.5, PIXELS - 1, PIXELS - 1);
  }
}

function channels(colour) {
  const digits = colour.trim().replace("#", "");
  return [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2), 16));
}

// The strongest pairs as a list, for those who cannot see the picture, or want it in words.
function strongest(view) {
  const pairs = [];
  for (let query = 1; query < view.tokens.length; query++) {
    for (let key = 0; key < query; key++) pairs.push([view.weight(query, key), query, key]);
  }
  pairs.sort((one, other) => other[0] - one[0]);
  const items = pairs.slice(0, SHOWN_PAIRS).map(([weight, query, key]) =>
    make("li", {}, `${quoted(view.tokens[query])} (${query}) looks ${query - key} back at ${quoted(view.tokens[key])}: ${percent(weight)}`));
  return make("details", {}, make("summary", {}, "The strongest pairs in words"), make("ol", { class: "pairs" }, ...items));
}

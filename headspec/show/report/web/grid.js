// The head map: a grid with one tab stop, in which arrow keys move and Enter chooses.

const DENSE = 20; // heads a layer from which cells are too small for the letters of traits
const grid = byId("grid");
const cells = [];
const rows = new Map(); // layer → {element, places}
let current = 0; // the head that has the tab stop

function startGrid() {
  const layers = [...new Set(heads.map((head) => head.layer))];
  const nHeads = Math.max(...heads.map((head) => head.head)) + 1;
  grid.style.setProperty("--heads", nHeads);
  grid.classList.toggle("dense", nHeads > DENSE);
  grid.append(numbersAbove(nHeads));
  heads.forEach((head, place) => cells.push(makeCell(head, place)));
  for (const layer of layers) {
    const name = make("div", { role: "rowheader", class: "layer" }, make("span", { class: "unseen" }, "layer "), String(layer));
    const places = heads.flatMap((head, place) => (head.layer === layer ? [place] : []));
    const element = make("div", { role: "row", class: "row" }, name);
    rows.set(layer, { element, places });
    grid.append(element);
  }
  orderBy("role");
  for (const choice of document.querySelectorAll("input[name=order]")) {
    choice.addEventListener("change", () => orderBy(choice.value));
  }
  grid.addEventListener("keydown", onKey);
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (cell) choose(Number(cell.dataset.place));
  });
  for (const [start, end] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
    grid.addEventListener(start, (event) => {
      const cell = event.target.closest("[role=gridcell]");
      if (cell) showTip(cell, Number(cell.dataset.place));
    });
    grid.addEventListener(end, (event) => {
      if (event.target.closest("[role=gridcell]") === tipped) hideTip();
    });
  }
  startColours();
}

function numbersAbove(nHeads) {
  const every = nHeads > DENSE ? 4 : 1;
  const names = Array.from({ length: nHeads }, (_, head) => make("div", {}, head % every ? "" : String(head)));
  return make("div", { class: "row numbers", "aria-hidden": "true" }, make("div", { class: "layer" }), ...names);
}

function makeCell(head, place) {
  const mark = head.window ?? (data.roles[head.role].name === "dead" ? "×" : "");
  return make("div", {
    role: "gridcell", tabindex: -1, class: `cell role-${head.role}`, "data-place": place,
    "aria-label": `${head.name}, ${head.words}`, "aria-selected": "false",
  }, make("span", { class: "mark-1" }, String(mark)), make("span", { class: "mark-2" }, head.marks));
}

// By role within each layer, or by number; in the document as on the screen.
function orderBy(order) {
  const key = (place) => [heads[place].role, heads[place].window ?? 0, heads[place].head];
  const compare = (one, other) => {
    const [a, b] = [key(one), key(other)];
    return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
  };
  grid.classList.toggle("by-number", order === "index");
  for (const row of rows.values()) {
    row.places.sort(order === "index" ? (one, other) => heads[one].head - heads[other].head : compare);
    row.element.append(...row.places.map((place) => cells[place]));
  }
}

function onKey(event) {
  const cell = event.target.closest("[role=gridcell]");
  if (!cell || event.altKey || event.metaKey) return;
  const place = Number(cell.dataset.place);
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose(place);
    return;
  }
  const target = neighbour(place, event);
  if (target === null) return;
  event.preventDefault();
  moveTo(target);
}

// Where a key leads; null if it leads nowhere.
function neighbour(place, event) {
  const layers = [...rows.keys()];
  const row = layers.indexOf(heads[place].layer);
  const column = rows.get(layers[row]).places.indexOf(place);
  const last = (at) => rows.get(layers[at]).places.length - 1;
  const all = event.ctrlKey;
  const steps = {
    ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
    Home: [all ? 0 : row, 0], End: [all ? layers.length - 1 : row, Infinity],
    PageUp: [Math.max(row - 5, 0), column], PageDown: [Math.min(row + 5, layers.length - 1), column],
  };
  const step = steps[event.key];
  if (!step || step[0] < 0 || step[0] >= layers.length || step[1] < 0) return null;
  const end = last(step[0]);
  if (event.key === "ArrowRight" && step[1] > end) return null;
  return rows.get(layers[step[0]]).places[Math.min(step[1], end)];
}

function moveTo(place) {
  cells[current].tabIndex = -1;
  current = place;
  cells[place].tabIndex = 0;
  cells[place].focus();
}

// Shows which head is chosen, and gives it the tab stop.
function markChosen(place, before) {
  if (before !== null) cells[before].setAttribute("aria-selected", "false");
  cells[place].setAttribute("aria-selected", "true");
  cells[current].tabIndex = -1;
  current = place;
  cells[place].tabIndex = 0;
}

function dimHeads(shown) {
  cells.forEach((cell, place) => cell.classList.toggle("dim", !shown[place]));
}

// What colours mean: roles, or a column of numbers.
function startColours() {
  const select = byId("colour");
  select.append(make("option", { value: "" }, "role"));
  for (const column of columns) {
    if (!column.hidden) select.append(make("option", { value: column.key }, column.label));
  }
  select.addEventListener("change", () => colourBy(columnOf.get(select.value)));
  colourBy(undefined);
}

function colourBy(column) {
  grid.classList.toggle("by-value", Boolean(column));
  cells.forEach((cell, place) => {
    const value = column?.values[place] ?? null;
    const { back, ink } = value === null ? { back: "", ink: "" } : shade(shareOf(column, value));
    cell.style.background = back;
    cell.style.color = ink;
  });
  byId("key").replaceChildren(...(column ? valueKey(column) : []), ...roleKey(Boolean(column)));
}

function valueKey(column) {
  const { low, high } = rangeOf(column);
  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => shade(share).back).join(", ");
  const start = column.log ? `≤ ${inWords(Math.max(low, high / 1e4))}` : inWords(Math.min(low, 0));
  const unit = column.unit ? ` ${column.unit}` : "";
  return [make("div", { class: "scale" }, make("span", {}, start),
    make("span", { class: "ramp", style: `background: linear-gradient(to right, ${stops})` }),
    make("span", {}, `${inWords(high)}${unit}${column.log ? " (log)" : ""}`)),
  make("p", { class: "fine" }, `${column.words} ${column.caution ?? ""}`)];
}

function roleKey(marksOnly) {
  const marks = ["number", "nothing", "×"];
  const roles = data.roles.map((role, place) => make("li", {},
    marksOnly ? "" : make("span", { class: `swatch role-${place}` }), `${role.name}: ${marks[place]}${place ? "" : " (window in keys)"}`));
  const letters = data.traits.filter(([mark]) => mark).map(([mark, name]) =>
    make("li", {}, make("b", {}, mark), ` ${name}`));
  return [make("ul", {}, ...roles, ...letters)];
}

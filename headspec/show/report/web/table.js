// All heads as a table: every column sorts, a row chooses its head, and what is shown can be saved as CSV.

const table = byId("rows");
const lines = []; // a row a head, in the order of the data
let order = heads.map((_, place) => place);
let sorted = { key: "name", up: true };
let tabRow = 0; // the head whose row has the tab stop

const TEXTS = {
  name: { label: "head", text: (head) => head.name },
  role: { label: "role", text: (head) => data.roles[head.role].name },
  status: { label: "status", text: (head) => head.status },
  traits: { label: "traits", text: (head) => head.traits.join(", ") },
  plan: { label: "plan", text: (head) => data.plan?.[head.name]?.[0] ?? "" },
};

function shownColumns(wide) {
  const texts = ["name", "role", ...(heads.some((head) => head.status) ? ["status"] : [])];
  const last = ["traits", ...(data.plan ? ["plan"] : [])];
  const numbers = columns.filter((column) => !column.hidden && (wide || !column.wide)).map((column) => column.key);
  return [...texts, ...numbers, ...last];
}

function startTable() {
  build(shownColumns(false));
  byId("wide").addEventListener("change", (event) => build(shownColumns(event.target.checked)));
  byId("download").addEventListener("click", download);
  whenFiltered.push(fillTable, count, () => dimHeads(shown));
  count();
}

function build(keys) {
  const names = keys.map((key) => {
    const column = columnOf.get(key);
    const button = make("button", { type: "button", title: column ? `${column.words} ${column.caution ?? ""}` : null },
      (column ?? TEXTS[key]).label, make("span", { class: "arrow", "aria-hidden": "true" }), column?.unit ? make("small", {}, column.unit) : null);
    button.addEventListener("click", () => sortBy(key));
    return make("th", { scope: "col", "data-key": key, class: column ? "number" : null }, button);
  });
  const body = make("tbody", {});
  lines.length = 0;
  heads.forEach((head, at) => lines.push(line(head, at, keys)));
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !event.target.closest("a")) choose(Number(row.dataset.place));
  });
  body.addEventListener("keydown", onRowKey);
  const caption = make("caption", { class: "unseen" }, `Heads of ${data.model}`);
  table.replaceChildren(caption, make("thead", {}, make("tr", {}, ...names)), body);
  sortBy(keys.includes(sorted.key) ? sorted.key : "name", keys.includes(sorted.key) ? sorted.up : true);
  if (chosen !== null) markRow(chosen, null);
}

function line(head, at, keys) {
  const row = document.createElement("tr");
  row.dataset.place = at;
  for (const key of keys) {
    const column = columnOf.get(key);
    const cell = document.createElement(key === "name" ? "th" : "td");
    if (key === "name") {
      cell.scope = "row";
      cell.append(make("a", { href: `#${head.name}`, tabindex: -1 }, head.name));
    } else if (key === "role") {
      cell.append(make("span", { class: `swatch role-${head.role}` }), data.roles[head.role].name);
    } else if (column) {
      cell.className = "number";
      cell.textContent = shortWords(column, at);
    } else {
      cell.textContent = TEXTS[key].text(head);
    }
    row.append(cell);
  }
  return row;
}

function sortBy(key, up) {
  const same = sorted.key === key;
  sorted = { key, up: up ?? (same ? !sorted.up : !columnOf.has(key)) };
  const column = columnOf.get(key);
  const sign = sorted.up ? 1 : -1;
  const compare = column ? (one, other) => compareNumbers(comparable(column, one), comparable(column, other), sign)
    : key === "name" ? (one, other) => sign * (one - other)
      : (one, other) => sign * TEXTS[key].text(heads[one]).localeCompare(TEXTS[key].text(heads[other]), "en");
  order = heads.map((_, at) => at).sort((one, other) => compare(one, other) || one - other);
  for (const name of table.tHead.rows[0].cells) {
    if (name.dataset.key === key) name.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
    else name.removeAttribute("aria-sort");
  }
  fillTable();
}

// What was not measured comes last, whichever way one sorts.
function compareNumbers(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null);
  return one === other ? 0 : sign * (one - other); // ∞ less ∞ is no number
}

// Puts the rows that are shown into the table, in order.
function fillTable() {
  table.tBodies[0].replaceChildren(...order.filter((at) => shown[at]).map((at) => lines[at]));
  const first = order.find((at) => shown[at]);
  if (!shown[tabRow] && first !== undefined) giveTabStop(first);
  else giveTabStop(tabRow);
}

function count() {
  const number = shown.filter(Boolean).length;
  byId("count").textContent = `${number.toLocaleString("en")} of ${heads.length.toLocaleString("en")} heads shown`;
}

function giveTabStop(at) {
  const link = (each) => lines[each].querySelector("a");
  link(tabRow).tabIndex = -1;
  tabRow = at;
  link(at).tabIndex = 0;
}

function onRowKey(event) {
  const row = event.target.closest("tr");
  const target = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling,
    Home: row.parentElement.firstElementChild, End: row.parentElement.lastElementChild }[event.key];
  if (!target || event.altKey || event.metaKey) return;
  event.preventDefault();
  giveTabStop(Number(target.dataset.place));
  target.querySelector("a").focus();
}

function markRow(at, before) {
  if (before !== null) {
    lines[before].removeAttribute("aria-current");
    lines[before].classList.remove("chosen");
  }
  lines[at].setAttribute("aria-current", "true");
  lines[at].classList.add("chosen");
  giveTabStop(at);
}

// The rows that are shown, in order, with every column.
function download() {
  const keys = shownColumns(true);
  const rows = [keys, ...order.filter((at) => shown[at]).map((at) => keys.map((key) =>
    columnOf.has(key) ? comparable(columnOf.get(key), at) ?? "" : safeText(TEXTS[key].text(heads[at]))))];
  const text = rows.map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(",")).join("\r\n");
  const link = make("a", { href: URL.createObjectURL(new Blob([`${text}\r\n`], { type: "text/csv" })), download: "heads.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Spreadsheets take texts that begin so for formulas.
function safeText(text) {
  return /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
}

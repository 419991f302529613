// The chosen head: why it has its role, where it looks, its numbers, and what treating it costs. Its name is the address.

const pageTitle = document.title;
let chosen = null;

// Chooses by the address, so that a link leads to a head and the browser's back button to the one before.
function choose(place) {
  if (location.hash === `#${heads[place].name}`) followAddress();
  else location.hash = heads[place].name;
}

function followAddress() {
  const wanted = decodeAddress();
  if (!wanted) {
    show(firstShown());
    document.title = pageTitle;
  }
  if (!/^L\d+H\d+$/i.test(wanted)) return;
  const place = placeOf.get(wanted.toUpperCase());
  if (place === undefined) {
    say(`There is no head ${wanted} on this page.`);
    return;
  }
  show(place);
  say(`${heads[place].name}: ${heads[place].words}`);
  document.title = `${heads[place].name} · ${heads[place].words} · ${data.model}`;
  if (innerWidth < 1100) bringIntoView(byId("panel"));
}

function decodeAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

function startPanel() {
  show(firstShown());
  if (location.hash) followAddress();
  addEventListener("hashchange", followAddress);
}

// A head that is worth seeing first: one that does induction, or looks at the token before.
function firstShown() {
  const known = ["induction", "previous-token"].map((trait) => heads.findIndex((head) => head.traits.includes(trait)));
  return known.find((place) => place >= 0) ?? 0;
}

function show(place) {
  const before = chosen;
  chosen = place;
  markChosen(place, before);
  markRow(place, before);
  const head = heads[place];
  const name = make("h2", { id: "panel-title" }, make("a", { href: `#${head.name}`, title: "A link to this head" }, head.name), " ",
    make("span", { class: `chip role-${head.role}` }, head.words));
  const panel = byId("panel");
  panel.replaceChildren(name, ...verdict(head), ...planned(head), ...looks(place), ...effectTable(head), ...numbers(place));
  panel.scrollTop = 0;
}

function verdict(head) {
  const traits = head.traits.map((trait) => {
    const known = data.traits.find(([, name]) => name === trait);
    return make("li", {}, make("b", {}, trait), known ? `: ${known[2]}` : "");
  });
  const evidence = head.evidence.map(([label, value]) => make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, value)));
  return [
    make("p", { class: "reason" }, head.reason),
    head.status ? make("p", { class: "fine" }, make("b", {}, head.status), `: ${data.statuses[head.status] ?? ""}`) : null,
    make("p", { class: "fine" }, make("b", {}, "margin"), `: ${head.margin_words}`),
    traits.length ? make("ul", { class: "traits" }, ...traits) : null,
    evidence.length ? make("details", {}, make("summary", {}, "The numbers this was decided on"),
      make("table", { class: "small" }, make("tbody", {}, ...evidence))) : null,
  ].filter(Boolean);
}

function planned(head) {
  const plan = data.plan?.[head.name];
  if (!plan) return [];
  return [make("p", { class: "planned" }, make("b", {}, "In the plan: "), make("code", {}, plan[0]), ` – ${plan[1]}.`)];
}

function looks(place) {
  const pattern = patternView(place);
  const parts = [];
  if (data.offsets) {
    parts.push(make("h3", {}, "How far back it looks"), offsetChart(place),
      make("p", { class: "fine" }, "Share of its attention by distance, in percent; the line is the middle head of the model."));
  }
  if (pattern) {
    parts.push(make("h3", {}, "What it looks at on a sample"), ...pattern,
      make("p", { class: "fine" }, "A row is a token that looks, a column one it looks at; depth is the square root of the weight. Part of a text, twice: an induction head draws a stripe half-way. Weights are right within 0.004."));
  }
  return parts;
}

function effectTable(head) {
  const rows = data.effects?.heads[head.name];
  if (!rows) return [];
  const [kl, error, increase, repeats, induction] = [0, 1, 2, 3, 4];
  const body = Object.entries(rows).map(([treatment, values]) => make("tr", {},
    make("th", { scope: "row" }, make("span", { title: data.effects.treatments[treatment] }, treatment)),
    make("td", {}, inWords(values[kl]), values[error] === null ? "" : ` ± ${inWords(values[error], 2)}`),
    make("td", {}, values[increase] === null ? inWords(null) : `${values[increase] < 0 || values[increase] === Infinity ? "" : "+"}${percent(values[increase])}`),
    make("td", {}, inWords(values[repeats])), make("td", {}, percent(values[induction]))));
  const names = ["treatment", "KL ± error", "perplexity", "KL, repeats", "induction"];
  return [
    make("h3", {}, "What treating it alone costs"),
    data.random ? make("p", { class: "random" }, data.random) : null,
    make("div", { class: "panel-scroll", tabindex: 0, role: "group", "aria-label": "What treating it alone costs" }, make("table", { class: "small effects" },
      make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...body))),
    make("details", {}, make("summary", {}, "What these mean"), make("ul", { class: "traits" },
      ...Object.keys(rows).map((treatment) => make("li", {}, data.effects.treatments[treatment])),
      ...Object.entries(data.effects.columns).map(([column, words]) => make("li", {}, make("b", {}, column), `: ${words}`)))),
  ].filter(Boolean);
}

function numbers(place) {
  if (!data.statistics.length) return [];
  const entries = data.statistics.map((each) => statistic(columnOf.get(each.name), place));
  const button = make("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "Explain all");
  const list = make("div", { class: "statistics" }, ...entries);
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(open));
    for (const entry of list.children) entry.open = open;
  });
  return [make("div", { class: "with-button" }, make("h3", {}, "Its numbers"), button), list];
}

function statistic(column, place) {
  const value = column.values[place];
  const rank = rankOf(column, place);
  const known = column.values.filter((each) => each !== null).length;
  const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i", { style: `left: ${value === null ? 0 : 100 * shareOf(column, value)}%` }));
  return make("details", {},
    make("summary", {}, make("span", { class: "label" }, column.label), bar,
      make("span", { class: "value" }, inWords(value), make("small", {}, ` ${column.unit === "share" ? "" : column.unit}`)),
      make("small", { class: "rank", title: rank === null ? null : `${ordinal(rank)} largest of ${known} heads` }, rank === null ? "" : ordinal(rank))),
    make("p", {}, rank === null ? "Not measured for this head." : `${ordinal(rank)} largest of ${known.toLocaleString("en")}. `, column.words),
    column.caution ? make("p", { class: "caution" }, `Caution: ${column.caution}`) : null);
}

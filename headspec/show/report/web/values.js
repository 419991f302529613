// Every number of every head by column: what the table sorts, the filter limits, the map colours, and how heads rank.

// {key, label, unit, words, values}: one entry a column of numbers.
const columns = [
  { key: "layer", label: "layer", unit: "", values: heads.map((head) => head.layer), hidden: true },
  { key: "window", label: "window", unit: "keys", words: "Keys that a positional head needs, its own included, sinks apart.",
    values: heads.map((head) => head.window) },
  { key: "margin", label: "margin", unit: "", words: "Distance to the nearest cut-off, as a share of it: 0 is on the edge.",
    values: heads.map((head) => head.margin), endless: true }, // none: nothing could change the role
  ...data.statistics.map((each) => ({
    key: each.name, label: each.label, unit: each.unit, words: each.meaning, caution: each.caution, values: each.values,
    wide: !each.main,
  })),
  ...effectColumns(),
];
const columnOf = new Map(columns.map((column) => [column.key, column]));

// KL of every treatment that a sweep gave to heads alone.
function effectColumns() {
  if (!data.effects) return [];
  return Object.entries(data.effects.treatments).map(([treatment, words], place) => ({
    key: `kl ${treatment}`, label: `KL, ${treatment}`, unit: "nats a token",
    words: `${data.effects.columns.kl}, when it alone is treated (${words}).`, wide: place > 1, log: true,
    values: heads.map((head) => data.effects.heads[head.name]?.[treatment]?.[0] ?? null),
  }));
}

// A value for comparing: where a column is endless, none is more than any.
function comparable(column, place) {
  return column.values[place] ?? (column.endless ? Infinity : null);
}

function shortWords(column, place) {
  const value = column.values[place];
  return value === null ? (column.endless ? "∞" : "–") : inWords(value);
}

// 1 for the head with the largest value.
function rankOf(column, place) {
  const own = column.values[place];
  if (own === null) return null;
  return 1 + column.values.filter((value) => value !== null && value > own).length;
}

// {low, high} of the numbers that are there.
function rangeOf(column) {
  column.range ??= measureRange(column);
  return column.range;
}

function measureRange(column) {
  const known = column.values.filter(Number.isFinite);
  return known.length ? { low: Math.min(...known), high: Math.max(...known) } : { low: 0, high: 1 };
}

// Where a value lies between the smallest and the largest, 0 to 1; by its logarithm where values span decades.
function shareOf(column, value) {
  const { low, high } = rangeOf(column);
  if (column.log && high > 0) {
    const floor = Math.max(low, high / 1e4);
    return Math.min(Math.max(Math.log(Math.max(value, floor) / floor) / (Math.log(high / floor) || 1), 0), 1);
  }
  const start = Math.min(low, 0);
  return high > start ? (value - start) / (high - start) : 0;
}

const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

// A colour for 0 to 1, and the ink that can be read on it.
function shade(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const first = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mixed = VIRIDIS[first].map((value, i) => Math.round(value + (place - first) * (VIRIDIS[first + 1][i] - value)));
  return { back: `rgb(${mixed.join(" ")})`, ink: share < 0.55 ? "#fff" : "#222" };
}

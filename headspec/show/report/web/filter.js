// Which heads are shown: by role, by words, and by a number between two limits.

const whenFiltered = [];
let shown = heads.map(() => true);
const wanted = { roles: new Set(data.roles.map((_, role) => role)), words: [], column: null, least: null, most: null };

function startFilter() {
  const form = byId("filter");
  const roles = data.roles.map((role, place) => make("label", { class: "check" },
    make("input", { type: "checkbox", name: "role", value: place, checked: true }),
    make("span", { class: `swatch role-${place}` }), `${role.name} (${role.count})`));
  const numbered = columns.filter((column) => !column.hidden);
  form.append(
    make("fieldset", { class: "checks" }, make("legend", { class: "unseen" }, "Roles"), ...roles),
    make("label", { class: "field" }, "Words ", make("input", { type: "search", name: "words", placeholder: "L3, induction, window" })),
    make("fieldset", { class: "limits" }, make("legend", { class: "unseen" }, "Limits of a number"),
      make("label", { class: "field" }, "Number ", make("select", { name: "column" },
        ...numbered.map((column) => make("option", { value: column.key }, column.label)))),
      make("label", { class: "field" }, "from ", make("input", { type: "text", inputmode: "decimal", name: "least", size: 6 })),
      make("label", { class: "field" }, "to ", make("input", { type: "text", inputmode: "decimal", name: "most", size: 6 }))),
    make("button", { type: "reset", class: "quiet" }, "Reset"),
  );
  form.elements.column.value = columnOf.has("output_spread") ? "output_spread" : numbered[0].key;
  form.addEventListener("input", () => readFilter(form));
  form.addEventListener("reset", () => setTimeout(() => {
    form.elements.column.value = columnOf.has("output_spread") ? "output_spread" : numbered[0].key;
    readFilter(form);
  }));
  form.addEventListener("submit", (event) => event.preventDefault());
}

function readFilter(form) {
  wanted.roles = new Set([...form.querySelectorAll("[name=role]:checked")].map((box) => Number(box.value)));
  wanted.words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  wanted.column = columnOf.get(form.elements.column.value);
  wanted.least = limit(form.elements.least);
  wanted.most = limit(form.elements.most);
  shown = heads.map((_, place) => isShown(place));
  for (const tell of whenFiltered) tell();
}

// A number that was typed; null if there is none.
function limit(field) {
  const text = field.value.trim().replace(",", ".").replace("−", "-");
  const value = Number(text);
  const wrong = text !== "" && Number.isNaN(value);
  field.setAttribute("aria-invalid", String(wrong));
  return text === "" || wrong ? null : value;
}

function isShown(place) {
  if (!wanted.roles.has(heads[place].role)) return false;
  if (!wanted.words.every((word) => hasWord(place, word))) return false;
  if (wanted.least === null && wanted.most === null) return true;
  const value = comparable(wanted.column, place);
  return value !== null && value >= (wanted.least ?? -Infinity) && value <= (wanted.most ?? Infinity);
}

// "L3" is a layer and "L3H7" a head; anything else stands somewhere in what is said of the head.
function hasWord(place, word) {
  const head = heads[place];
  if (/^l\d+$/.test(word)) return word === `l${head.layer}`;
  if (/^l\d+h\d+$/.test(word)) return word === head.name.toLowerCase();
  return [head.words, head.traits.join(" "), data.plan?.[head.name]?.[0] ?? ""].join(" ").toLowerCase().includes(word);
}

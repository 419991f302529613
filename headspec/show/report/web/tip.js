// The words beside a head that one points at or moves to. Escape puts them away.

const tip = byId("tip");
let tipped = null;

function tipLines(place) {
  const head = heads[place];
  const lines = [
    make("p", { class: "tip-head" }, make("strong", {}, head.name), ` ${head.words}`),
    make("p", {}, head.reason),
    make("p", { class: "faint" }, `margin: ${head.margin_words}`),
  ];
  if (head.traits.length) lines.push(make("p", { class: "faint" }, `traits: ${head.traits.join(", ")}`));
  const numbers = data.statistics.filter((each) => each.main);
  if (numbers.length) {
    lines.push(make("table", {}, make("tbody", {}, ...numbers.map((each) =>
      make("tr", {}, make("td", {}, each.label), make("td", {}, inWords(each.values[place])))))));
  }
  return lines;
}

function showTip(element, place) {
  tipped = element;
  tip.replaceChildren(...tipLines(place));
  tip.hidden = false;
  placeTip();
}

function placeTip() {
  const cell = tipped.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(cell.left + cell.width / 2 - own.width / 2, 8), innerWidth - own.width - 8);
  const below = cell.bottom + 8 + own.height < innerHeight;
  tip.style.left = `${Math.max(left, 8)}px`;
  tip.style.top = `${below ? cell.bottom + 8 : Math.max(cell.top - own.height - 8, 8)}px`;
}

function hideTip() {
  tip.hidden = true;
  tipped = null;
}

function startTip() {
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
  const follow = () => (tipped && tipped === document.activeElement ? placeTip() : hideTip());
  addEventListener("scroll", follow, { passive: true, capture: true });
}

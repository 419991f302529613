// Where a head looks: a bar a group of distances, with a tick for the middle head of the model.

const CHART = { width: 400, height: 172, left: 30, bottom: 52, top: 16 };
let middles = null; // of every group of distances, the median over heads

function offsetChart(place) {
  const shares = data.offsets.shares[place];
  const names = data.offsets.names;
  const step = (CHART.width - CHART.left) / names.length;
  const floor = CHART.height - CHART.bottom;
  const most = [0.25, 0.5, 1].find((end) => Math.max(...shares.map((share) => share ?? 0)) <= end) ?? 1;
  const y = (share) => floor - (Math.min(share, most) / most) * (floor - CHART.top);
  const picture = draw("svg", {
    viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", class: "chart", "aria-label": offsetWords(shares, names),
  });
  for (const share of [0, most / 2, most]) {
    picture.append(
      draw("line", { x1: CHART.left, x2: CHART.width, y1: y(share), y2: y(share), class: "rule" }),
      draw("text", { x: CHART.left - 5, y: y(share) + 3, class: "tick", "text-anchor": "end" }, `${100 * share}`),
    );
  }
  names.forEach((name, group) => {
    const x = CHART.left + group * step;
    const share = shares[group] ?? 0;
    picture.append(
      draw("rect", { x: x + 1, width: Math.max(step - 2, 1), y: y(share), height: Math.max(floor - y(share), 0.5), class: "bar" }),
      draw("line", { x1: x + 1, x2: x + step - 1, y1: y(middle(group)), y2: y(middle(group)), class: "middle" }),
    );
    if (share >= most / 10) picture.append(draw("text", { x: x + step / 2, y: above(y(share) - 3, y(middle(group))), class: "tick", "text-anchor": "middle" }, `${Math.round(100 * share)}`));
    const hover = draw("rect", { x, width: step, y: 0, height: CHART.height, class: "hover" },
      draw("title", {}, `${percent(share)} of its attention goes ${name} tokens back; the middle head: ${percent(middle(group))}`));
    picture.append(hover, groupName(name, x + step / 2, floor + 11));
  });
  picture.append(draw("text", { x: CHART.width, y: CHART.height - 2, class: "tick", "text-anchor": "end" }, "tokens back (0 is itself); from 8 on, bars stand for wider and wider ranges"));
  return picture;
}

// Where a number is written so that the tick of the middle head does not strike it through.
function above(baseline, tick) {
  return tick <= baseline + 2 && tick >= baseline - 10 ? tick - 3 : baseline;
}

// Ranges are wider than their bars, so they stand aslant.
function groupName(name, x, y) {
  const aslant = name.includes("–") ? { transform: `rotate(-35 ${x} ${y - 3})`, "text-anchor": "end" } : { "text-anchor": "middle" };
  return draw("text", { x, y, class: "tick group", ...aslant }, name);
}

function middle(group) {
  middles ??= data.offsets.names.map((_, each) => {
    const sorted = data.offsets.shares.map((shares) => shares[each] ?? 0).sort((one, other) => one - other);
    const half = (sorted.length - 1) / 2;
    return (sorted[Math.floor(half)] + sorted[Math.ceil(half)]) / 2;
  });
  return middles[group];
}

function offsetWords(shares, names) {
  const order = shares.map((share, group) => [share ?? 0, names[group]]).sort((one, other) => other[0] - one[0]);
  const words = order.slice(0, 4).map(([share, name]) => `${percent(share)} ${name} tokens back`);
  return `Attention by distance: ${words.join(", ")}.`;
}

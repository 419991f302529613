// Plotly's figures: drawn when one scrolls near them, in the colours of the page, with menus that keyboards reach.

// Colours of the figures that cannot be seen on a dark ground, and what takes their place.
const ON_DARK = {
  "#222222": "#e9e8e4", "#666666": "#a3a8b0", "#ffffff": "#15171b", "#e8e8e8": "#30343b",
  "#332288": "#9d92ee", "#882255": "#dd77aa", "#117733": "#44b36c", "#aa4499": "#cc77bb", "#999933": "#b8b84d",
};
const KEPT = new Set(["textfont", "insidetextfont", "colorscale"]); // they stand on the colours of cells

const plots = []; // {box, spec, chosen} of figures that are drawn

function plotly() {
  if (!window.Plotly) document.head.append(make("script", {}, byId("plotly").textContent));
  return window.Plotly;
}

// The figure as JSON, in the colours of the page.
function coloured(value, kept = false) {
  if (typeof value === "string") {
    if (kept || !isDark()) return value;
    return value.replace(/#[0-9a-f]{6}/gi, (colour) => ON_DARK[colour.toLowerCase()] ?? colour);
  }
  if (Array.isArray(value)) return value.map((each) => coloured(each, kept));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, coloured(each, kept || KEPT.has(name))]));
  }
  return value;
}

function figureBox(known) {
  const caption = make("figcaption", { class: known.alone ? "alone" : null });
  writeTitle(caption, coloured(known.title));
  const menus = make("div", { class: "tools" });
  const canvas = make("div", { class: "plot", style: `min-height: ${known.height}px` });
  const box = make("figure", { class: "figure", "data-number": known.number }, caption, menus, make("div", { class: "plot-scroll" }, canvas));
  box.parts = { caption, menus, canvas };
  return box;
}

// The figures as JSON, unpacked while the page is idle, so that drawing, and printing, need not wait.
const texts = [];

function unpack(number) {
  texts[number] ??= { text: null, ready: unpacked(byId(`figure-${number}`).textContent) };
  const kept = texts[number];
  kept.ready.then((text) => (kept.text = text), () => {});
  return kept;
}

async function unpacked(letters) {
  const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

async function drawSoon(box) {
  try {
    await unpack(box.dataset.number).ready;
    drawNow(box);
  } catch (error) {
    box.parts.canvas.append(make("p", { class: "missing" }, `This browser cannot draw the figure (${error.message}).`));
  }
}

function drawNow(box) {
  const { text } = unpack(box.dataset.number);
  if (box.dataset.drawn || text === null) return;
  box.dataset.drawn = "true";
  const plot = { box, spec: JSON.parse(text) };
  plot.chosen = plot.spec.menus.map(() => 0);
  plot.title = plot.spec.title;
  plots.push(plot);
  plot.spec.menus.forEach((menu, which) => box.parts.menus.append(menuOf(plot, menu, which)));
  redraw(plot);
}

function menuOf(plot, menu, which) {
  const options = menu.map((choice, at) => make("option", { value: at }, choice.label));
  const select = make("select", { "aria-label": `What the figure shows, menu ${which + 1}` }, ...options);
  select.addEventListener("change", () => {
    plot.chosen[which] = Number(select.value);
    apply(plot, menu[plot.chosen[which]]);
  });
  return make("label", { class: "field" }, "Show ", select);
}

function apply(plot, choice) {
  if (choice.title) {
    plot.title = choice.title;
    writeTitle(plot.box.parts.caption, coloured(choice.title));
  }
  plotly()[choice.method](plot.box.parts.canvas, ...coloured(choice.args));
}

function redraw(plot) {
  const { data: traces, layout } = coloured(plot.spec.figure);
  writeTitle(plot.box.parts.caption, coloured(plot.title));
  const style = getComputedStyle(document.documentElement);
  const [ink, card] = ["--ink", "--card"].map((name) => style.getPropertyValue(name).trim());
  const font = { family: getComputedStyle(document.body).fontFamily, color: ink };
  const own = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { ...layout.font, ...font },
    hoverlabel: { align: "left", bgcolor: card, bordercolor: ink, font: { ...font, size: 12 } } };
  plotly().react(plot.box.parts.canvas, traces, { ...layout, ...own, autosize: true }, data.config);
  plot.spec.menus.forEach((menu, which) => {
    if (plot.chosen[which]) apply(plot, menu[plot.chosen[which]]);
  });
}

function startFigures() {
  const boxes = [...document.querySelectorAll("figure[data-number]")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      drawSoon(entry.target);
    }
  }, { rootMargin: "500px" });
  boxes.forEach((box) => near.observe(box));
  whenThemed.push(() => plots.forEach(redraw));
  addEventListener("beforeprint", () => boxes.forEach(drawNow));
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 500));
  idle(() => boxes.forEach((box) => unpack(box.dataset.number)));
}

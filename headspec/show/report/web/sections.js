// The head of the page, and below the heads the sections: words, figures, tables, or the command that makes them.

function startHead() {
  byId("model").textContent = data.model;
  byId("random").textContent = data.random;
  byId("random").hidden = !data.random;
  byId("facts").append(...data.facts.map(([name, words]) => make("div", {}, make("dt", {}, name), make("dd", {}, words))));
  const total = heads.length;
  byId("roles").append(...data.roles.map((role, place) => make("li", { class: `tile role-${place}` },
    make("b", {}, role.count.toLocaleString("en")), make("span", {}, make("strong", {}, role.name), ` ${Math.round((100 * role.count) / total)} %`),
    role.split ? make("p", {}, make("strong", {}, role.split)) : null, make("p", {}, role.meaning))));
  byId("findings").append(...data.findings.map((each) => make("li", {}, make("a", { href: `#${each.section}` }, each.text))));
  byId("notes").hidden = !data.notes.length;
  byId("notes").querySelector("ul").append(...data.notes.map((note) => make("li", {}, note)));
  byId("made").textContent = [`Made of ${data.files.join(", ")}.`, data.versions.join(", ")].join(" ");
}

function startSections() {
  const known = [{ name: "map", short: "Head map" }, { name: "table", short: "All heads" }, ...data.sections];
  byId("contents").append(...known.map((each) => make("li", { class: each.there === false ? "absent" : null },
    make("a", { href: `#${each.name}` }, each.short))));
  byId("sections").append(...data.sections.map(section));
}

function section(known) {
  const title = make("h2", { id: `${known.name}-title` }, known.title);
  const inside = known.there ? content(known) : [
    make("p", { class: "missing" }, "Not in these results. ", make("code", {}, known.command), " makes it; DIR is the folder of the results.")];
  return make("section", { id: known.name, class: known.there ? "section" : "absent", "aria-labelledby": title.id, tabindex: -1 },
    title, ...inside);
}

function content(known) {
  return [
    make("p", { class: "lead" }, known.shows),
    make("p", { class: "misleads" }, make("b", {}, "Careful: "), known.misleads),
    known.quality && data.random ? make("p", { class: "random" }, data.random) : null,
    known.verdict ? make("p", { class: known.verdict.startsWith("OVER") ? "random" : "verdict" }, `${known.verdict}.`) : null,
    ...known.figures.map((figure) => figureBox({ ...figure, alone: known.figures.length === 1 })),
    ...(known.blocks.length && known.figures.length
      ? [make("details", { class: "tables" }, make("summary", {}, "The same as tables, with all numbers"), ...known.blocks.map(block))]
      : known.blocks.map(block)),
  ].filter(Boolean);
}

function block(each) {
  if (each.kind === "heading") return make("h3", {}, each.text);
  if (each.kind === "list") return make("ul", {}, ...each.items.map((item) => make("li", {}, item)));
  if (each.kind === "text") return make("p", {}, each.strong ? make("strong", {}, each.text) : each.text);
  const body = each.rows.map((row, at) => make("tr", { class: each.strong[at] ? "strong" : null },
    ...row.map((cell, place) => (place ? make("td", {}, cell) : make("th", { scope: "row" }, cell)))));
  const names = each.head.map((name) => (name ? make("th", { scope: "col" }, name) : make("td", {})));
  return make("div", { class: "table-wide", tabindex: 0, role: "group", "aria-label": each.head.filter(Boolean).join(", ") },
    make("table", {}, make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...body)));
}

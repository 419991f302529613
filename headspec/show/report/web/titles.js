// The titles of plotly's figures as text that wraps. They come as plotly's small HTML: lines, bold, colours.

// Reads the HTML without running it, and takes over nothing but text, bold, line ends and colours.
function titleLines(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html").body;
  const found = [[]];
  const walk = (node, bold, colour, inside) => {
    for (const child of node.childNodes) {
      if (child.nodeName === "BR") {
        if (inside) found.at(-1).push(" ");
        else found.push([]);
      } else if (child.nodeType === Node.TEXT_NODE) {
        const text = child.textContent;
        if (!text) continue;
        if (colour) found.at(-1).push(make("span", { style: `color: ${colour}` }, text));
        else found.at(-1).push(bold ? make("b", {}, text) : text);
      } else {
        const own = child.style?.color;
        walk(child, bold || child.nodeName === "B", isGrey(own) ? colour : own || colour, inside || child.nodeName === "SPAN");
      }
    }
  };
  walk(parsed, false, "", false);
  return found.filter((line) => line.length);
}

// Ink and grey are those of the page; only colours that mean something stay.
function isGrey(colour) {
  return ["rgb(34, 34, 34)", "rgb(102, 102, 102)", "rgb(163, 168, 176)", "rgb(233, 232, 228)"].includes(colour);
}

function writeTitle(caption, html) {
  const [headline, ...lines] = titleLines(html);
  caption.replaceChildren(make("p", { class: "headline" }, ...(headline ?? [])), ...lines.map((line) => make("p", {}, ...line)));
}

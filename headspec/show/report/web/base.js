// The data of the page, elements without HTML (whatever comes from a record is text), and numbers in words.

const data = JSON.parse(document.getElementById("data").textContent);
for (const rows of Object.values(data.effects?.heads ?? {})) { // what was measured and is no number is worse than any
  for (const values of Object.values(rows)) values.forEach((value, at) => { if (value === "not finite") values[at] = Infinity; });
}
const heads = data.heads;
const placeOf = new Map(heads.map((head, place) => [head.name, place]));
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function byId(name) {
  return document.getElementById(name);
}

// An element with attributes and children; strings become text, nothing is ever read as HTML.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// The same for drawings.
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
}

// A number with three digits, as the figures write it.
function inWords(value, digits = 3) {
  if (value === null || value === undefined) return "not measured";
  if (value === Infinity) return "not finite";
  if (value !== 0 && Math.abs(value) < 1e-4) return value > 0 ? "below 0.0001" : "above −0.0001";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

function percent(value) {
  if (value === null || value === undefined) return "not measured";
  if (value === Infinity) return "not finite";
  const share = 100 * value;
  return `${Number(share.toPrecision(share >= 10 ? 3 : 2))} %`.replace("-", "−");
}

// "3rd": places are counted from 1.
function ordinal(place) {
  const ten = place % 100 >= 11 && place % 100 <= 13 ? 0 : place % 10;
  return place.toLocaleString("en") + (["th", "st", "nd", "rd"][ten] || "th");
}

function say(words) {
  byId("said").textContent = words;
}

function bringIntoView(element) {
  const box = element.getBoundingClientRect();
  if (box.top >= 0 && box.top < innerHeight * 0.7) return;
  element.scrollIntoView({ block: "start", behavior: calm.matches ? "auto" : "smooth" });
}

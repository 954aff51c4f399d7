// Elements are made of nodes and text, never of markup: what a row says stays text.

const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  return fill(node, ...children);
}

// Replace what is in a node; what is null, false or empty is left out.
function fill(node, ...children) {
  node.replaceChildren(...children.flat(3).filter((child) => child || child === 0));
  return node;
}

function button(label, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, label);
}

const SVG = document.getElementById("svg").content.firstElementChild.namespaceURI;

function drawing(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const pathOf = (file) => file.split("/").map(encodeURIComponent).join("/");
const previewOf = (row) => `previews/${row.file.split("/")[1]}/${encodeURIComponent(row.id)}`;

// Where a browser finds a row's moving picture; null where there is none to show.
function sourceOf(row) {
  if (row.status !== "ok" || !row.file) return null;
  if (row.preview) return { src: `${previewOf(row)}/clip.mp4`, poster: `${previewOf(row)}/poster.png` };
  if (/\.mp4$/.test(row.file) && !["png", "h265"].includes(codecOf(row))) return { src: pathOf(row.file) };
  return null;
}

function whyNoPicture(row) {
  if (row.status !== "ok") return row.error || row.status;
  if (!row.file) return "no file";
  return `browsers do not play ${codecOf(row) || "this codec"}; zs2 gallery makes a preview`;
}

function video(row, properties = {}) {
  const node = element("video", { loop: true, muted: true, playsInline: true, disablePictureInPicture: true,
    "aria-label": `clip ${row.id}`, ...properties });
  node.defaultMuted = true;
  // small clips are shown larger with their pixels as they are
  if (Number.parseInt(row.size ?? "", 10) <= 160) node.className = "pixels";
  return node;
}

// Give a video its file; without a poster, Safari shows the first frame only where it is asked for.
function load(node, row) {
  const source = sourceOf(row);
  if (source.poster) node.poster = source.poster;
  node.preload = source.poster ? "none" : "metadata";
  node.src = source.src + (source.poster ? "" : "#t=0.001");
}

// A browser keeps few players: those of clips out of sight are given back.
function unload(node) {
  node.pause();
  node.removeAttribute("src");
  node.removeAttribute("poster");
  node.load();
}

function play(node) {
  node.preload = "auto";
  node.play().catch(() => {}); // taken out of the page, or paused, before it began
}

function toast(text) {
  const news = $("news");
  news.textContent = text;
  news.classList.add("seen");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => news.classList.remove("seen"), 2600);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page of a file may not everywhere: the old way needs a selection
    const box = element("textarea", { value: text, className: "aside" });
    (document.querySelector("dialog[open]") ?? document.body).append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    if (!done) return toast(`${what} could not be copied`);
  }
  toast(`${what} copied`);
}

const grouped = (number) => number.toLocaleString("en");
const plural = (number, word) => `${grouped(number)} ${word}${number === 1 ? "" : "s"}`;

// Digits enough to tell neighbours apart: 0.0123, 1.23, 12.3, 123
function figure(value) {
  if (typeof value !== "number") return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.1 ? 3 : 4);
}

function duration(seconds) {
  if (seconds < 60) return `${figure(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const wantsCalm = matchMedia("(prefers-reduced-motion: reduce)");
const hasHover = matchMedia("(hover: hover)");

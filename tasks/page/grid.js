// The grid: cards of what is in sight, and no others, however many rows there are.

const MOST_CARDS = 40; // with their parts and the page's own they stay below 500 nodes
const SETTLE = 90; // milliseconds after the last scroll in which clips are loaded

const grid = $("grid");
const cards = new Map(); // id → its card
let layout = { columns: 1, width: 200, picture: 200, height: 290, gap: 20 };
let focused = ""; // the id that arrow keys start from
let settling = 0;

// The shape of most clips.
function commonShape() {
  const shapes = new Map();
  for (const row of rows) if (row.size) shapes.set(row.size, (shapes.get(row.size) ?? 0) + 1);
  const [size] = [...shapes].sort((a, b) => b[1] - a[1])[0] ?? ["1×1"];
  const [width, height] = size.split("×").map(Number);
  return Math.min(1.25, Math.max(9 / 16, height / width));
}

function measure() {
  const width = grid.clientWidth;
  const gap = width < 600 ? 12 : 20;
  const shape = commonShape();
  const of = (columns) => {
    const card = (width - gap * (columns - 1)) / columns;
    const picture = Math.round(card * shape);
    return { columns, width: card, picture, height: picture + 82, gap };
  };
  let columns = Math.min(7, Math.max(width < 600 ? 2 : 1, Math.floor((width + gap) / (204 + gap))));
  const mounted = (each) => (Math.ceil((innerHeight + 240) / (each.height + gap)) + 1) * each.columns;
  while (columns > 1 && mounted(of(columns)) > MOST_CARDS) columns--;
  layout = of(columns);
  const lines = Math.ceil(shown.length / columns);
  grid.style.height = shown.length ? `${lines * (layout.height + gap) - gap}px` : "";
  grid.style.setProperty("--picture", `${layout.picture}px`);
  grid.style.setProperty("--card", `${layout.width}px`);
  grid.style.setProperty("--height", `${layout.height}px`);
}

const topOf = (index) => Math.floor(index / layout.columns) * (layout.height + layout.gap);

function drawGrid() {
  const above = scrollY - grid.offsetTop - 120;
  const pitch = layout.height + layout.gap;
  const first = Math.max(0, Math.floor(above / pitch)) * layout.columns;
  const last = Math.min(shown.length, Math.ceil((above + innerHeight + 240) / pitch) * layout.columns);
  const wanted = new Map();
  for (let index = first; index < last; index++) wanted.set(shown[index].id, index);
  for (const [id, card] of cards) {
    if (wanted.has(id) && card.row === byId.get(id)) continue;
    dropCard(id, card);
  }
  let before = null;
  for (const [id, index] of wanted) {
    let card = cards.get(id);
    if (!card) cards.set(id, (card = makeCard(shown[index])));
    const x = (index % layout.columns) * (layout.width + layout.gap);
    card.style.transform = `translate(${x}px, ${topOf(index)}px)`;
    card.setAttribute("aria-posinset", index + 1);
    card.setAttribute("aria-setsize", shown.length);
    card.tabIndex = id === focused || (!wanted.has(focused) && index === first) ? 0 : -1;
    const next = before ? before.nextSibling : grid.firstChild; // order in the page is order on it
    if (next !== card) grid.insertBefore(card, next);
    before = card;
  }
  $("empty")?.remove();
  if (!shown.length) grid.append(element("p", { id: "empty" }, rows.length
    ? "No clip matches. Change the search or the filters." : "No row has ended yet."));
  clearTimeout(settling);
  settling = setTimeout(loadCards, SETTLE);
}

function dropCard(id, card) {
  if (card.picture.tagName === "VIDEO") unload(card.picture);
  card.remove();
  cards.delete(id);
}

function loadCards() {
  for (const card of cards.values()) {
    if (card.picture.tagName !== "VIDEO") continue;
    if (!card.picture.getAttribute("src")) load(card.picture, card.row);
    if (playsAll()) play(card.picture);
  }
}

// With fingers there is no hovering: what is in sight plays, unless calm is wanted.
const playsAll = () => state.play || (!hasHover.matches && !wantsCalm.matches);

function makeCard(row) {
  const picture = pictureOf(row);
  const picked = state.compare.includes(row.id);
  const card = element("article",
    { className: `card ${row.status}`, role: "listitem", "aria-label": labelOf(row), "data-id": row.id },
    picture,
    sourceOf(row) && element("button", { type: "button", className: "pick", tabIndex: -1, "aria-pressed": String(picked),
      title: "Compare (c)", "aria-label": `compare ${row.id}` }, picked ? "✓" : "+"),
    element("p", { className: "prompt", dir: "auto" }, row.prompt.slice(0, 300).replaceAll("\n", " → ") || "\u00a0"),
    element("p", { className: "facts" }, factsOf(row)));
  card.row = row;
  card.picture = picture;
  return card;
}

function pictureOf(row) {
  if (sourceOf(row)) {
    const node = video(row, { tabIndex: -1 });
    node.addEventListener("error", () => {
      if (!node.getAttribute("src")) return;
      const card = node.closest("article");
      card.picture = element("div", { className: "none" }, "the file is not there, or this browser cannot play it");
      node.replaceWith(card.picture);
    });
    return node;
  }
  if (row.status === "ok" && /\.(gif|webp)$/.test(row.file ?? ""))
    return element("img", { src: pathOf(row.file), alt: `clip ${row.id}`, loading: "lazy", className: "pixels" });
  return element("div", { className: "none" }, whyNoPicture(row).slice(0, 240));
}

const labelOf = (row) => `${row.id}, ${row.status}${row.stage ? ` in ${row.stage}` : ""}: ${row.prompt.slice(0, 120)}`;

function factsOf(row) {
  if (row.status !== "ok") return [row.id, row.status, row.stage && `in ${row.stage}`].filter(Boolean).join(" · ");
  const value = sortedBy(row);
  return (value ? [value, row.id] : [row.id, row.frames && plural(row.frames, "frame")]).filter(Boolean).join(" · ");
}

// What the grid is sorted by stands on the cards; consistency never without how much moves.
function sortedBy(row) {
  if (state.sort === "id") return undefined;
  const { label, of } = sortings().get(state.sort) ?? {};
  if (!of) return undefined;
  const pair = state.sort === "frame_consistency" && "dynamic_degree" in row.scores
    ? `, ${figure(row.scores.dynamic_degree)} dynamic` : "";
  return `${figure(of(row))} ${label.replace("frame ", "")}${pair}`; // figures are seen on narrow cards, too
}

// Draw again after the rows, the filters or the order have changed.
function refresh({ keepPlace = false } = {}) {
  const anchor = keepPlace ? anchorCard() : null;
  choose();
  for (const [id, card] of cards) dropCard(id, card);
  measure();
  if (anchor) {
    const index = shown.findIndex((row) => row.id === anchor.id);
    if (index >= 0) scrollTo({ top: topOf(index) + grid.offsetTop + anchor.offset, behavior: "instant" });
  } else if (scrollY > grid.offsetTop) scrollTo({ top: 0, behavior: "instant" });
  const had = document.activeElement === document.body && keepPlace && focused;
  drawGrid();
  if (had) cards.get(focused)?.focus({ preventScroll: true });
}

// The first card in sight, and how far it is scrolled.
function anchorCard() {
  const index = Math.max(0, Math.floor((scrollY - grid.offsetTop) / (layout.height + layout.gap))) * layout.columns;
  const row = shown[index];
  return row && scrollY > grid.offsetTop ? { id: row.id, offset: scrollY - grid.offsetTop - topOf(index) } : null;
}

function focusIndex(index) {
  const row = shown[Math.max(0, Math.min(shown.length - 1, index))];
  if (!row) return;
  focused = row.id;
  const top = topOf(shown.indexOf(row)) + grid.offsetTop;
  const room = $("head").offsetHeight + 12;
  if (top - room < scrollY) scrollTo({ top: top - room, behavior: "instant" });
  else if (top + layout.height + 16 > scrollY + innerHeight)
    scrollTo({ top: top + layout.height + 16 - innerHeight, behavior: "instant" });
  drawGrid();
  cards.get(row.id)?.focus({ preventScroll: true });
}

const cardOf = (node) => node.closest?.("article.card");

function startCard(card) {
  if (card?.picture.tagName === "VIDEO") {
    if (!card.picture.getAttribute("src")) load(card.picture, card.row);
    play(card.picture);
  }
}

function restCard(card) {
  if (card?.picture.tagName !== "VIDEO" || playsAll()) return;
  card.picture.pause();
  card.picture.currentTime = 0;
}

grid.addEventListener("pointerover", (event) => {
  const card = cardOf(event.target);
  if (card && !card.contains(event.relatedTarget) && event.pointerType === "mouse" && !wantsCalm.matches) startCard(card);
});
grid.addEventListener("pointerout", (event) => {
  const card = cardOf(event.target);
  if (card && !card.contains(event.relatedTarget) && card !== document.activeElement) restCard(card);
});
grid.addEventListener("focusin", (event) => {
  const card = cardOf(event.target);
  if (!card) return;
  focused = card.row.id;
  for (const other of cards.values()) other.tabIndex = other === card ? 0 : -1;
  if (event.target === card && !wantsCalm.matches && card.matches(":focus-visible")) startCard(card);
});
grid.addEventListener("focusout", (event) => {
  const card = cardOf(event.target);
  if (card && !card.contains(event.relatedTarget) && !card.matches(":hover")) restCard(card);
});
grid.addEventListener("click", (event) => {
  const card = cardOf(event.target);
  if (!card) return;
  if (event.target.className === "pick") togglePick(card.row.id);
  else openDetail(card.row.id);
});

let drawing_soon = 0;
addEventListener("scroll", () => {
  cancelAnimationFrame(drawing_soon);
  drawing_soon = requestAnimationFrame(drawGrid);
}, { passive: true });
addEventListener("resize", () => {
  const anchor = anchorCard();
  measure();
  if (anchor) scrollTo({ top: topOf(shown.findIndex((row) => row.id === anchor.id)) + grid.offsetTop, behavior: "instant" });
  drawGrid();
});

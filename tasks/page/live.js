// The start of the page; and while the run goes on, its news.

// Files may not fetch each other: the page loads itself in a hidden frame, which sends its data back.
let asking = null;
const ASKS = "zs2-news";

function askSoon() {
  clearTimeout(askSoon.timer);
  if (data.state !== "running") return;
  // a page of a large run is written seldom, and reading it takes a moment
  const every = Math.min(600, Math.max(3, (data.news.every ?? 5) / 2));
  askSoon.timer = setTimeout(ask, every * 1000);
}

function ask() {
  if (document.hidden) return; // asked when it is looked at again
  asking?.remove();
  asking = element("iframe", { name: ASKS, hidden: true, "aria-hidden": "true", tabIndex: -1 });
  asking.src = location.href.split("#")[0];
  document.body.append(asking);
  askSoon(); // also where no answer comes
}

addEventListener("visibilitychange", () => !document.hidden && data.state === "running" && ask());
addEventListener("message", (event) => {
  if (!asking || event.source !== asking.contentWindow || typeof event.data?.zs2 !== "string") return;
  const text = event.data.zs2;
  asking.remove();
  asking = null;
  if (text !== lastText) takeNews(text);
  askSoon();
});

let lastText = packedText;

function takeNews(text) {
  lastText = text;
  const before = rows.length;
  takeData(text);
  closeFiltersUnlessUsed();
  drawHead();
  refresh({ keepPlace: true });
  drawTray();
  if (rows.length > before) $("news").textContent = `${plural(rows.length - before, "new clip")}`;
}

// A panel with the focus in it stays as it is, with the values that it had.
function closeFiltersUnlessUsed() {
  const panel = $("filters");
  if (!panel) return;
  if (!panel.contains(document.activeElement)) return closeFilters();
  takeNews.panel = panel;
}

function start() {
  readHash();
  drawHead();
  drawTray();
  refresh();
  if (state.id) openDetail(state.id);
}

addEventListener("hashchange", () => {
  const { id } = state;
  readHash();
  drawHead();
  drawTray();
  refresh();
  if (state.id && state.id !== id) openDetail(state.id);
  else if (!state.id && detail.open) detail.close();
});

takeData(packedText);
start();
askSoon();

// The keyboard. Keys with Ctrl, Alt or Meta are the browser's.

const typesIn = (node) => /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName) && node.type !== "range";

function onGridKey(event) {
  const index = shown.findIndex((row) => row.id === focused);
  const page = Math.max(1, Math.floor(innerHeight / (layout.height + layout.gap))) * layout.columns;
  const to = {
    ArrowRight: index + 1, ArrowLeft: index - 1, ArrowDown: index + layout.columns, ArrowUp: index - layout.columns,
    PageDown: index + page, PageUp: index - page, Home: 0, End: shown.length - 1,
  }[event.key];
  const card = cardOf(document.activeElement);
  if (to !== undefined) return card || document.activeElement === document.body ? (focusIndex(index < 0 ? 0 : to), true) : false;
  if (!card || document.activeElement !== card) return false;
  if (event.key === "Enter") openDetail(card.row.id);
  else if (event.key === " " && card.picture.tagName === "VIDEO") card.picture.paused ? startCard(card) : card.picture.pause();
  else if (event.key === "c") togglePick(card.row.id);
  else return event.key === " ";
  return true;
}

function onDetailKey(event) {
  const player = $("player");
  const inPlayer = document.activeElement === player;
  if (event.key === "ArrowLeft" && !inPlayer) step(-1);
  else if (event.key === "ArrowRight" && !inPlayer) step(1);
  else if (event.key === "c") togglePick(state.id);
  else if (event.key === "v") openCompare();
  else if (!player) return false;
  else if (event.key === ",") stepFrame(player, -1);
  else if (event.key === ".") stepFrame(player, 1);
  else if (event.key === " " && document.activeElement.tagName !== "BUTTON" && !inPlayer) player.paused ? play(player) : player.pause();
  else return false;
  return true;
}

function onCompareKey(event) {
  if (event.key === ",") stepClock(-1);
  else if (event.key === ".") stepClock(1);
  else if (event.key === " " && document.activeElement.tagName !== "BUTTON") setPlaying(!clock.playing);
  else return false;
  return true;
}

function onPageKey(event) {
  if (event.key === "/") $("search").select();
  else if (event.key === "v") openCompare();
  else if (event.key === "p") change({ play: !state.play });
  else if (event.key === "Escape" && $("filters")) closeFilters();
  else return onGridKey(event);
  return true;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
  if (typesIn(event.target)) {
    if (event.key === "Escape" && !event.target.value) event.target.blur();
    return;
  }
  if ($("keys")) return;
  const taken = event.key === "?" ? (openHelp(), true)
    : compare.open ? onCompareKey(event) : detail.open ? onDetailKey(event) : onPageKey(event);
  if (taken) event.preventDefault();
});

// Two to four clips side by side, on one clock.

const MOST_COMPARED = 4;
const compare = element("dialog", { id: "compare", "aria-label": "comparison" });
const clock = { time: 0, last: 0, playing: false, length: 0, fps: 8, players: [], frame: 0 };

function togglePick(id) {
  const row = byId.get(id);
  if (!row || !sourceOf(row)) return toast("there is nothing to compare: no clip was rendered");
  if (state.compare.includes(id)) state.compare = state.compare.filter((other) => other !== id);
  else if (state.compare.length >= MOST_COMPARED) return toast(`${MOST_COMPARED} clips are the most`);
  else state.compare = [...state.compare, id];
  const picked = state.compare.includes(id);
  const pick = cards.get(id)?.querySelector(".pick");
  if (pick) {
    pick.setAttribute("aria-pressed", String(picked));
    pick.textContent = picked ? "✓" : "+";
  }
  writeHash();
  drawTray();
}

function drawTray() {
  state.compare = state.compare.filter((id) => byId.has(id) && sourceOf(byId.get(id)));
  const tray = $("tray");
  tray.hidden = !state.compare.length;
  if (tray.hidden) return tray.replaceChildren();
  fill(tray,
    element("ul", {}, state.compare.map((id) => element("li", {}, button(`× ${id}`, () => togglePick(id), { "aria-label": `take ${id} out` })))),
    button("Clear", () => { for (const id of [...state.compare]) togglePick(id); }),
    button(`Compare ${state.compare.length}`, openCompare, { id: "go", className: "main", disabled: state.compare.length < 2, title: "Side by side (v)" }));
}

function openCompare() {
  if (state.compare.length < 2) return toast("choose two clips or more, with c");
  if (detail.open) detail.close();
  const chosen = state.compare.map((id) => byId.get(id));
  const players = chosen.map((row) => {
    const node = video(row, { loop: false });
    load(node, row);
    node.preload = "auto";
    node.fps = row.fps ?? 8;
    node.addEventListener("loadedmetadata", measureClock);
    return node;
  });
  const figures = chosen.map((row, index) => element("figure", {}, players[index], element("figcaption", {},
    element("b", {}, row.id), element("span", { className: "prompt", dir: "auto" }, row.prompt.slice(0, 200)),
    element("span", { className: "differs", title: differencesOf(row, chosen) }, differencesOf(row, chosen)))));
  fill(compare,
    element("header", {}, element("h2", {}, `${chosen.length} clips in step`),
      element("nav", {}, button("×", () => compare.close(), { title: "Close (Esc)", "aria-label": "close", className: "close" }))),
    element("div", { className: `pictures of${chosen.length}` }, figures),
    element("div", { className: "controls" },
      button("‹", () => stepClock(-1), { title: "One frame back (,)", "aria-label": "one frame back" }),
      button("Play", () => setPlaying(!clock.playing), { id: "clockplay", className: "main", title: "Space", autofocus: true }),
      button("›", () => stepClock(1), { title: "One frame on (.)", "aria-label": "one frame on" }),
      element("input", { id: "scrub", type: "range", min: 0, max: 1, step: 1, value: 0, "aria-label": "frame",
        oninput: (event) => scrubTo(Number(event.target.value)) }),
      element("output", { id: "frame" }, "")));
  Object.assign(clock, { players, time: 0, frame: 0, playing: false, length: 0 });
  document.body.append(compare);
  compare.showModal();
  if (!wantsCalm.matches) setPlaying(true);
}

// What a clip has otherwise than the others beside it.
function differencesOf(row, chosen) {
  const all = chosen.map((each) => ({ seed: each.seed, model: each.model, ...paramsOf(each) }));
  const own = all[chosen.indexOf(row)];
  const names = [...new Set(all.flatMap(Object.keys))].filter((name) => new Set(all.map((each) => JSON.stringify(each[name]))).size > 1);
  return names.slice(0, 8).map((name) => `${name} ${own[name] === undefined ? "–" : jsonOf(own[name]).slice(0, 60)}`).join(" · ");
}

function measureClock() {
  const known = clock.players.filter((node) => node.duration > 0);
  clock.length = Math.max(0, ...known.map((node) => node.duration));
  clock.fps = Math.max(1, ...known.map((node) => node.fps));
  const scrub = $("scrub");
  if (scrub) scrub.max = Math.max(1, Math.round(clock.length * clock.fps) - 1);
  if (clock.playing) showClock();
  else seekFrame(Math.floor(clock.time * clock.fps + 1e-6)); // who comes late, too
}

function showClock() {
  const frames = Math.max(1, Math.round(clock.length * clock.fps));
  const at = Math.min(frames - 1, Math.floor(clock.time * clock.fps + 1e-6));
  const output = $("frame");
  if (!output) return;
  output.textContent = `${at + 1} / ${frames}`;
  $("scrub").value = at;
  $("clockplay").textContent = clock.playing ? "Pause" : "Play";
}

function setPlaying(playing) {
  clock.playing = playing;
  clock.last = performance.now();
  if (playing) requestAnimationFrame(tick);
  else for (const node of clock.players) node.pause();
  if (!playing) seekFrame(Math.floor(clock.time * clock.fps + 1e-6));
  showClock();
}

const MOST_DRIFT = 0.08; // seconds: less than a frame at the usual 8 frames/s

// The clock runs by itself; whoever has drifted from it is put right. A shorter clip waits at its end.
function tick(now) {
  if (!clock.playing || !compare.open) return;
  clock.time += Math.min(0.25, (now - clock.last) / 1000);
  clock.last = now;
  if (clock.length && clock.time >= clock.length) {
    clock.time %= clock.length;
    for (const node of clock.players) node.currentTime = clock.time;
  }
  for (const node of clock.players) {
    if (!(node.duration > 0)) continue;
    const at = Math.min(clock.time, node.duration - 0.5 / node.fps);
    const over = clock.time >= node.duration;
    if (over && !node.paused) node.pause();
    if (!over && node.paused) play(node);
    if (!node.seeking && Math.abs(node.currentTime - at) > MOST_DRIFT) node.currentTime = at;
  }
  showClock();
  requestAnimationFrame(tick);
}

function seekFrame(frame) {
  const frames = Math.max(1, Math.round(clock.length * clock.fps));
  const at = Math.min(frames - 1, Math.max(0, frame));
  clock.time = (at + 0.5) / clock.fps; // the middle of a frame: rounding cannot show its neighbour
  for (const node of clock.players)
    if (node.duration > 0) node.currentTime = Math.min(clock.time, node.duration - 0.5 / node.fps);
  showClock();
}

function scrubTo(frame) {
  setPlaying(false);
  seekFrame(frame);
}

function stepClock(by) {
  const frame = Math.floor(clock.time * clock.fps + 1e-6);
  setPlaying(false);
  seekFrame(frame + by);
}

compare.addEventListener("close", () => {
  clock.playing = false;
  for (const node of clock.players) unload(node);
  clock.players = [];
  compare.replaceChildren();
  compare.remove();
  cards.get(focused)?.focus({ preventScroll: true });
});

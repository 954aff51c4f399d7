// One clip: large, with all that is known of it.

const detail = element("dialog", { id: "detail", "aria-label": "clip", tabIndex: -1, autofocus: true });
let opener = null; // what gets the focus back

function openDetail(id) {
  const row = byId.get(id);
  if (!row) return toast(`there is no clip ${id} on this page`);
  opener ??= document.activeElement;
  state.id = id;
  focused = id;
  writeHash();
  drawDetail(row);
  if (!detail.isConnected) document.body.append(detail);
  if (!detail.open) detail.showModal();
  detail.focus({ preventScroll: true }); // keys are the clip's, not its first button's
  for (const card of cards.values()) if (card.picture.tagName === "VIDEO") card.picture.pause();
}

detail.addEventListener("close", () => {
  const player = detail.querySelector("video");
  if (player) unload(player);
  detail.replaceChildren();
  detail.remove();
  state.id = "";
  writeHash();
  drawGrid();
  (cards.get(focused) ?? opener)?.focus({ preventScroll: true });
  opener = null;
});
detail.addEventListener("click", (event) => event.target === detail && detail.close());

function step(by) {
  const index = shown.findIndex((row) => row.id === state.id);
  const next = shown[index + by];
  if (next) openDetail(next.id);
}

function drawDetail(row) {
  const former = detail.querySelector("video");
  if (former) unload(former);
  const params = paramsOf(row);
  const index = shown.indexOf(row);
  detail.setAttribute("aria-label", `clip ${row.id}`);
  fill(detail,
    element("header", {},
      element("h2", {}, row.id),
      element("span", { className: `badge ${row.status}` }, row.status),
      element("nav", {},
        button("‹", () => step(-1), { disabled: index <= 0, title: "Previous (←)", "aria-label": "previous clip" }),
        button("›", () => step(1), { disabled: index < 0 || index >= shown.length - 1, title: "Next (→)", "aria-label": "next clip" }),
        button("×", () => detail.close(), { title: "Close (Esc)", "aria-label": "close", className: "close" }))),
    element("div", { className: "body" },
      element("section", { className: "stage" }, stageOf(row), actionsOf(row)),
      element("section", { className: "about" },
        row.prompt && element("p", { className: "prompt", dir: "auto" }, row.prompt),
        row.error && element("div", { className: row.status === "ok" ? "note" : "error" },
          element("h3", {}, row.status === "ok" ? "Note" : [row.kind, row.stage && `in ${row.stage}`].filter(Boolean).join(" ") || row.status),
          element("pre", { dir: "auto", tabIndex: 0 }, row.error)),
        scoresOf(row), motionOf(row, params), secondsOf(row),
        facts("Yours", Object.fromEntries(Object.entries(row.meta).map(([name, value]) => [name.replace(/^meta_/, ""), value]))),
        facts("Parameters", { seed: row.seed, ...params }),
        facts("File", { file: row.file, size: row.size, frames: row.frames, fps: row.fps,
          bytes: row.bytes && grouped(row.bytes), digest: row.digest, "model revision": row.revision,
          device: row.device, node: row.node, attempts: row.attempts > 1 ? row.attempts : undefined,
          ended: row.ended && `${row.ended} UTC` }))));
  detail.querySelector(".body").scrollTop = 0;
}

function stageOf(row) {
  if (!sourceOf(row)) return element("div", { className: "none large" }, row.status === "ok" ? whyNoPicture(row) : "nothing was rendered");
  const player = video(row, { controls: true, id: "player" });
  load(player, row);
  player.preload = "auto";
  player.fps = row.fps ?? 8;
  // where its own controls have led, it says itself
  for (const moved of ["pointerdown", "keydown"])
    player.addEventListener(moved, () => { player.wanted = undefined; });
  player.addEventListener("playing", () => {
    if (player.paused) return;
    player.wanted = undefined;
    player.loop = true;
  });
  if (!wantsCalm.matches) play(player);
  return player;
}

// One frame on or back: to its middle, where rounding cannot show its neighbour.
function stepFrame(player, by) {
  if (!(player.duration > 0)) return; // not known yet
  player.pause();
  player.loop = false; // near its end Chromium would begin anew, paused or not
  const frame = Math.floor((player.wanted ?? player.currentTime) * player.fps + 1e-6) + by;
  const most = Math.max(0, Math.round(player.duration * player.fps) - 1);
  // while it seeks, a player does not yet say where it will be
  player.wanted = (Math.min(most, Math.max(0, frame)) + 0.5) / player.fps;
  player.currentTime = player.wanted;
}

function actionsOf(row) {
  const player = () => $("player");
  return element("div", { className: "actions" },
    sourceOf(row) && [
      button("‹ frame", () => stepFrame(player(), -1), { title: "One frame back (,)" }),
      button("frame ›", () => stepFrame(player(), 1), { title: "One frame on (.)" }),
      button(state.compare.includes(row.id) ? "Comparing ✓" : "Compare", (event) => {
        togglePick(row.id);
        event.target.textContent = state.compare.includes(row.id) ? "Comparing ✓" : "Compare";
      }, { title: "Add to the comparison (c)" })],
    row.seed && button("Copy command", () => copy(commandOf(row), "command"), { id: "command", title: "The command that renders this clip again" }),
    row.seed && button("Copy row", () => copy(manifestRowOf(row), "row"), { id: "row", title: "The row of a manifest, as JSON" }),
    row.file && element("a", { href: pathOf(row.file), className: "button", target: "_blank", rel: "noopener" }, "Open file"));
}

function facts(title, values) {
  const list = element("dl");
  for (const [name, value] of Object.entries(values))
    if (value !== undefined && value !== null && value !== "")
      list.append(element("dt", { dir: "auto" }, name), element("dd", { dir: "auto" }, jsonOf(value)));
  return list.childElementCount ? element("div", { className: "block" }, element("h3", {}, title), list) : null;
}

// Consistency alone would praise a still picture: it stands beside how much moves.
function scoresOf(row) {
  const names = Object.keys(row.scores);
  if (!names.length) return null;
  const late = ["frame_consistency", "dynamic_degree"];
  names.sort((a, b) => late.indexOf(a) - late.indexOf(b));
  return element("div", { className: "block scores" }, element("h3", {}, "Scores"),
    element("dl", {}, names.map((name) => element("div", {},
      element("dt", {}, wordsOf(name)), element("dd", {}, figure(row.scores[name]))))));
}

function motionOf(row, params) {
  if (!row.kl) return null;
  const target = Array.isArray(params.kl_target) ? undefined : params.kl_target;
  const asked = params.noise === "dependency" ? target : undefined;
  const alpha = row.alpha === undefined ? null : Array.isArray(row.alpha) ? row.alpha : row.kl.map(() => row.alpha);
  return element("div", { className: "block plots" }, element("h3", {}, "Per frame pair"),
    plot("λ reached", row.kl, asked),
    alpha && plot("α, the weight of the frame before", alpha));
}

// A small line: its least and greatest value in words, a dashed line for what was asked.
function plot(name, values, asked) {
  const [width, height, pad] = [320, 64, 6];
  const numbers = values.filter((value) => typeof value === "number");
  const all = asked === undefined ? numbers : [...numbers, asked];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (index) => pad + (values.length > 1 ? (index / (values.length - 1)) * (width - 2 * pad) : width / 2 - pad);
  const y = (value) => (high === low ? height / 2 : height - pad - ((value - low) / (high - low)) * (height - 2 * pad));
  const points = values.map((value, index) => (typeof value === "number" ? `${x(index).toFixed(1)} ${y(value).toFixed(1)}` : null));
  const line = points.map((point, index) => point && `${index && points[index - 1] ? "L" : "M"}${point}`).filter(Boolean).join("");
  const said = low === high ? figure(low) : `${figure(Math.min(...numbers))} to ${figure(Math.max(...numbers))}`;
  const picture = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}: ${said}` });
  if (asked !== undefined)
    picture.append(drawing("path", { class: "asked", d: `M${pad} ${y(asked).toFixed(1)}H${width - pad}` }));
  picture.append(drawing("path", { class: "line", d: line }));
  if (values.length <= 80)
    picture.append(drawing("path", { class: "dots", d: points.filter(Boolean).map((point) => `M${point}h0`).join("") }));
  return element("figure", {},
    element("figcaption", {}, element("span", {}, name),
      element("span", {}, said + (asked === undefined ? "" : ` · asked ${figure(asked)}`))), picture);
}

function secondsOf(row) {
  const entries = Object.entries(row.seconds).filter(([, seconds]) => seconds > 0);
  if (!entries.length) return null;
  const most = Math.max(...entries.map(([, seconds]) => seconds));
  return element("div", { className: "block bars" }, element("h3", {}, `Seconds · ${figure(total(row.seconds))}`),
    entries.map(([name, seconds]) => {
      const bar = element("span", { className: "bar" });
      bar.style.width = `${Math.max(0.5, (seconds / most) * 100)}%`;
      return element("div", {}, element("span", {}, name), element("span", { className: "track" }, bar),
        element("span", { className: "value" }, figure(seconds)));
    }));
}

// Keys and help.

const KEYS = [
  ["← → ↑ ↓", "from clip to clip"], ["Enter", "open a clip"], ["Esc", "close"], ["Space", "play, pause"],
  [", .", "one frame back, on"], ["c", "add to the comparison, or take out"], ["v", "compare side by side"],
  ["p", "play all in sight"], ["/", "search"], ["?", "this list"],
];

function openHelp() {
  const help = element("dialog", { id: "keys", "aria-label": "keys" },
    element("header", {}, element("h2", {}, "Keys"),
      element("nav", {}, button("×", () => help.close(), { "aria-label": "close", className: "close" }))),
    element("dl", {}, KEYS.map(([key, what]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, what)])),
    element("p", {}, "The address keeps what you look at: a link to this page opens the same clip, search and order."));
  help.addEventListener("close", () => help.remove());
  help.addEventListener("click", (event) => event.target === help && help.close());
  document.body.append(help);
  help.showModal();
}

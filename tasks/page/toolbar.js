// The header: what the run is and how it stands, search, filters, order.

const STATUSES = ["ok", "failed", "invalid"];
const MOST_VALUES = 8; // of a column, as chips; all can be searched for
const MOST_FACETS = 5;

const head = $("head");

function drawHead() {
  const search = $("search");
  const typing = document.activeElement === search && search ? [search.selectionStart, search.selectionEnd] : null;
  const found = facets();
  const { news } = data;
  head.className = stateWord();
  if (news.total) head.style.setProperty("--done", `${Math.min(100, (data.of / news.total) * 100)}%`);
  fill(head,
    element("div", { className: "title" },
      element("h1", { dir: "auto", title: data.title }, data.title),
      element("p", { id: "how" }, element("span", { className: `dot ${stateWord()}` }), howItStands())),
    element("div", { className: "statuses", role: "group", "aria-label": "Status" },
      statusChip("", "all", rows.length),
      STATUSES.filter((status) => data.counts[status]).map((status) => statusChip(status, status, data.counts[status]))),
    element("div", { className: "tools" },
      element("input", { id: "search", type: "search", placeholder: "Search", value: state.q, autocomplete: "off",
        "aria-label": "Search prompts, ids, models, errors and your columns", "aria-keyshortcuts": "/", oninput: onSearch }),
      found.size ? button(facetLabel(), toggleFilters, { id: "filter", "aria-expanded": "false", "aria-controls": "filters" }) : null,
      sortSelect(),
      button(state.down ? "↓" : "↑", () => change({ down: !state.down }),
        { id: "direction", title: "Reverse the order", "aria-label": state.down ? "descending" : "ascending" }),
      hasHover.matches && button("Play all", () => change({ play: !state.play }),
        { id: "play", "aria-pressed": String(state.play), title: "Play every clip in sight (p)" }),
      button("?", openHelp, { id: "help", title: "Keys (?)", "aria-label": "keys and help" })),
    leftOut());
  if (typing) {
    $("search").focus();
    $("search").setSelectionRange(...typing);
  }
}

const stateWord = () => data.state.split(" ")[0];

function howItStands() {
  const { news, summary } = data;
  const said = [data.state];
  if (data.state === "running" && news.total) {
    said.push(`${grouped(data.of)} of ${grouped(news.total)} rows`);
    if (news.clips_per_second) {
      said.push(`${figure(news.clips_per_second)} clips/s`);
      said.push(`${duration(Math.max(0, news.total - data.of) / news.clips_per_second)} left`);
    }
    // of a run that was killed nobody writes the end
    const silent = news.written ? Date.now() / 1000 - news.written : 0;
    if (silent > 3 * (news.every ?? 5) + 120) said.push(`no news for ${duration(silent)}`);
  }
  if (data.state !== "running") {
    if (summary.frames_per_second) said.push(`${figure(summary.frames_per_second)} frames/s`);
    if (summary.clips_per_second) said.push(`${figure(summary.clips_per_second)} clips/s`);
    if (summary.wall_seconds) said.push(duration(summary.wall_seconds));
    if (summary.cost) said.push(`cost ${figure(summary.cost)}`);
  }
  return said.join(" · ");
}

function leftOut() {
  if (data.of <= rows.length) return null;
  return element("p", { className: "banner" }, `${grouped(rows.length)} of ${grouped(data.of)} rows are shown here, `
    + "the first by id; metadata.parquet and results/ have them all.");
}

function statusChip(status, label, count) {
  return button([`${label} `, element("b", {}, grouped(count))], () => change({ status }),
    { className: `chip ${label}`, "aria-pressed": String(state.status === status) });
}

function sortSelect() {
  const select = element("select", { id: "sort", "aria-label": "Sort by", onchange: () => change({ sort: select.value }) });
  for (const [name, { label }] of sortings())
    select.append(element("option", { value: name, selected: name === state.sort }, label));
  return select;
}

function facetLabel() {
  const count = Object.keys(state.facets).length;
  return count ? `Filters · ${count}` : "Filters";
}

function onSearch(event) {
  clearTimeout(onSearch.timer);
  const q = event.target.value;
  onSearch.timer = setTimeout(() => {
    state.q = q;
    writeHash();
    refresh();
    toastCount();
  }, 120);
}

function toastCount() {
  $("news").textContent = plural(shown.length, "clip"); // read out; seen in the grid itself
}

// Every change of what is shown goes through here.
function change(choice) {
  Object.assign(state, choice);
  writeHash();
  const again = document.activeElement?.id;
  drawHead();
  if (again) $(again)?.focus();
  refresh();
  toastCount();
  if (!state.play && "play" in choice) for (const card of cards.values()) restCard(card);
}

function toggleFilters() {
  if ($("filters")) return closeFilters();
  const panel = element("div", { id: "filters", role: "group", "aria-label": "Filters" });
  const found = [...facets()].sort(([a], [b]) => (b in state.facets) - (a in state.facets));
  for (const [name, values] of found.slice(0, MOST_FACETS)) panel.append(facet(name, values));
  if (found.length > MOST_FACETS) {
    const more = element("select", { "aria-label": "another column", onchange: () => {
      panel.insertBefore(facet(more.value, facets().get(more.value)), more);
      more.selectedOptions[0].remove();
      more.value = "";
    } }, element("option", { value: "", selected: true }, "another column…"),
    found.slice(MOST_FACETS, MOST_FACETS + 60).map(([name]) => element("option", { value: name }, name.slice(0, 80))));
    panel.append(more);
  }
  head.append(panel);
  $("filter").setAttribute("aria-expanded", "true");
  panel.querySelector("button, input")?.focus();
}

function closeFilters() {
  $("filters")?.remove();
  $("filter")?.setAttribute("aria-expanded", "false");
}

function facet(name, values) {
  const box = element("fieldset", {}, element("legend", { dir: "auto" }, name.replace(/^meta_/, "").slice(0, 80)));
  const choose = (value) => {
    const facets = { ...state.facets };
    if (facets[name] === value || value === "~") delete facets[name];
    else facets[name] = value;
    state.facets = facets;
    for (const chip of box.querySelectorAll("button"))
      chip.setAttribute("aria-pressed", String(chip.value === facets[name]));
    $("filter").textContent = facetLabel();
    writeHash();
    refresh();
    toastCount();
  };
  for (const [value, count] of [...values].slice(0, MOST_VALUES))
    box.append(button([`${value.slice(0, 60)} `, element("b", {}, grouped(count))], () => choose(value),
      { className: "chip", value, dir: "auto", "aria-pressed": String(state.facets[name] === value) }));
  if (values.size > MOST_VALUES) {
    const current = state.facets[name] ?? "";
    box.append(element("input", { type: "search", placeholder: `one of ${grouped(values.size)} values`,
      value: current.startsWith("~") ? current.slice(1) : "", "aria-label": `${name} contains`,
      oninput: (event) => choose(`~${event.target.value}`) }));
  }
  return box;
}

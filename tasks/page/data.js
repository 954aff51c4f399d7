// The rows: unpacked from the page's JSON, filtered, sorted; and the state that the URL keeps.

const packedText = document.getElementById("data").textContent;
// An open page loads itself in a frame to ask for news (see live.js): then this is all it does.
if (window.name === "zs2-news" && window.parent !== window) {
  window.parent.postMessage({ zs2: packedText }, location.protocol === "file:" ? "*" : location.origin);
  return;
}

let data; // as the page was written last
let rows = []; // all
let byId = new Map();
let shown = []; // those that pass the filters, in order

// What the user chose: kept in the URL's fragment.
const NOTHING = { q: "", status: "", facets: {}, sort: "id", down: false, play: false, compare: [], id: "" };
let state = { ...NOTHING, facets: {} };

function valueAt(column, index) {
  if ("all" in column) return column.all;
  if ("each" in column) return column.each[index];
  return column.of[column.at[index]];
}

// A row as an object, without what it has no value for.
function unpackRow(columns, index) {
  const row = {};
  for (const name in columns) {
    const column = columns[name];
    const value = column.in ? unpackRow(column.in, index) : valueAt(column, index);
    if (value !== null && value !== undefined) row[name] = value;
  }
  return row;
}

// Of 10,000 rows most parameters are never looked at: they are unpacked when asked for.
function takeData(text) {
  data = JSON.parse(text);
  const { params, ...columns } = data.columns;
  rows = Array.from({ length: data.rows }, (_, index) => {
    const row = unpackRow(columns, index);
    row.meta ??= {};
    row.scores ??= {};
    row.seconds ??= {};
    row.index = index;
    return row;
  });
  byId = new Map(rows.map((row) => [row.id, row]));
}

const paramsOf = (row) => (data.columns.params?.in ? unpackRow(data.columns.params.in, row.index) : {});
const codecOf = (row) => {
  const column = data.columns.params?.in?.codec;
  return (column && valueAt(column, row.index)) || /\.(mkv|gif|webp)$/.exec(row.file ?? "")?.[1] || "";
};

const total = (seconds) => Object.values(seconds).reduce((sum, each) => sum + each, 0);
const mean = (values) => (values?.length ? values.reduce((sum, each) => sum + each, 0) / values.length : undefined);

// What rows can be sorted by: a name to show and a number (or text) of a row.
function sortings() {
  const found = new Map([["id", { label: "id", of: (row) => row.id }]]);
  for (const name of scoreNames()) found.set(name, { label: wordsOf(name), of: (row) => row.scores[name] });
  found.set("seconds", { label: "seconds", of: (row) => total(row.seconds) || undefined });
  found.set("kl", { label: "λ reached", of: (row) => mean(row.kl) });
  return found;
}

const scoreNames = () => Object.keys(data.columns.scores?.in ?? {});
const wordsOf = (name) => name.replaceAll("_", " ");

// Columns to filter by, each with how often each of its values occurs, the commonest first.
function facets() {
  const found = new Map();
  const count = (name, value) => {
    if (!found.has(name)) found.set(name, new Map());
    const values = found.get(name);
    values.set(value, (values.get(value) ?? 0) + 1);
  };
  for (const row of rows) {
    if (row.model) count("model", row.model);
    for (const name in row.meta) count(name, jsonOf(row.meta[name]));
  }
  for (const [name, values] of found) {
    if (name === "model" && values.size < 2) found.delete(name);
    else found.set(name, new Map([...values].sort((a, b) => b[1] - a[1])));
  }
  return found;
}

function facetValue(row, name) {
  const value = name === "model" ? row.model : row.meta[name];
  return value === undefined ? undefined : jsonOf(value);
}

function matches(row, name, wanted) {
  const value = facetValue(row, name);
  if (value === undefined) return false;
  return wanted.startsWith("~") ? value.toLowerCase().includes(wanted.slice(1).toLowerCase()) : value === wanted;
}

function haystack(row) {
  row.words ??= [row.id, row.prompt, row.model, row.error, row.seed, ...Object.values(row.meta).map(jsonOf)]
    .filter(Boolean).join("\n").toLowerCase();
  return row.words;
}

function choose() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = Object.entries(state.facets);
  shown = rows.filter((row) => (!state.status || row.status === state.status)
    && wanted.every(([name, value]) => matches(row, name, value))
    && words.every((word) => haystack(row).includes(word)));
  const by = sortings().get(state.sort) ?? sortings().get("id");
  const sign = state.down ? -1 : 1;
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  // Rows without the value come last in either direction; equal ones by id.
  const keys = new Map(shown.map((row) => [row, by.of(row)]));
  shown.sort((a, b) => {
    const x = keys.get(a), y = keys.get(b);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || order(a.id, b.id);
    return sign * order(x, y) || order(a.id, b.id);
  });
}

// The fragment: `#<id>` opens a clip; else `#q=…&status=…&sort=-seconds&id=…`.
function readHash() {
  const text = location.hash.slice(1);
  state = { ...NOTHING, facets: {}, compare: [] };
  if (text && !text.includes("=")) {
    try {
      state.id = decodeURIComponent(text);
    } catch {
      state.id = text; // not one that this page wrote
    }
    return;
  }
  for (const [name, value] of new URLSearchParams(text)) {
    if (name === "sort") [state.sort, state.down] = [value.replace(/^-/, ""), value.startsWith("-")];
    else if (name === "play") state.play = value === "1";
    else if (name === "compare") state.compare = value.split(",").filter(Boolean).slice(0, MOST_COMPARED);
    else if (name === "model" || name.startsWith("meta_")) state.facets[name] = value;
    else if (["q", "status", "id"].includes(name)) state[name] = value;
  }
}

function writeHash() {
  const words = new URLSearchParams();
  for (const name of ["q", "status"]) if (state[name]) words.set(name, state[name]);
  for (const [name, value] of Object.entries(state.facets)) words.set(name, value);
  if (state.sort !== "id" || state.down) words.set("sort", (state.down ? "-" : "") + state.sort);
  if (state.play) words.set("play", "1");
  if (state.compare.length) words.set("compare", state.compare.join(","));
  const alone = state.id && ![...words].length;
  if (state.id && !alone) words.set("id", state.id);
  const hash = alone ? encodeURIComponent(state.id) : String(words).replaceAll("%2C", ",");
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

// What renders a clip again. Single quotes hold anything in a shell but themselves.
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
const jsonOf = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// Names of files beside the manifest: only there do they mean the same.
const INPUTS = ["control_video", "source_video", "ip_adapter_image"];
const ENGINE = ["dtype", "safety_checker", "engine", "clips_per_call", "inputs", "candidates"]; // in params, but no columns

function promptsOf(row, params) {
  const lines = row.prompt.split("\n");
  const segments = Math.ceil((params.num_frames ?? 1) / (params.segment_frames ?? 1));
  return lines.length > 1 && lines.length === segments ? lines : [row.prompt];
}

const isCut = (row) => /… \([\d,]+ characters\)$/.test(row.prompt);

function commandOf(row) {
  const params = paramsOf(row);
  const { manifest, settings, suffixes } = data.again;
  const words = ["zs2", "sample"];
  const out = row.id + (suffixes[params.codec] ?? ".mp4");
  const needsManifest = isCut(row) || row.prompt.includes("\n") || row.prompt.includes("\0")
    || INPUTS.some((name) => params[name] !== undefined);
  if (needsManifest && manifest) {
    words.push("--from", manifest, "--id", row.id, "-o", out);
    for (const [name, value] of Object.entries(settings.defaults ?? {})) words.push("--set", `${name}=${jsonOf(value)}`);
    for (const root of settings.input_roots ?? []) words.push("--input-root", root);
  } else {
    words.push("-o", out, "--seed", row.seed);
    if (row.model) words.push("--model", row.model);
    for (const [name, value] of Object.entries(params))
      if (name !== "model" && !ENGINE.includes(name) && jsonOf(value) !== jsonOf(data.again.builtin[name] ?? null))
        words.push("--set", `${name}=${jsonOf(value)}`);
  }
  for (const name of settings.trust_pickles ?? []) words.push("--trust-pickle", name);
  if (params.dtype && params.dtype !== "auto") words.push("--dtype", params.dtype);
  if (params.engine && params.engine !== "eager") words.push("--engine", params.engine);
  if (params.clips_per_call > 1) words.push("--clips-per-call", String(params.clips_per_call));
  if (params.safety_checker === false) words.push("--safety-checker", "off");
  if (settings.threads > 1) words.push("--threads", String(settings.threads));
  if (!words.includes("--from")) words.push("--", ...promptsOf(row, params));
  return words.map(quoted).join(" ");
}

function manifestRowOf(row) {
  const params = paramsOf(row);
  for (const name of ENGINE) delete params[name];
  const prompts = promptsOf(row, params);
  const first = { id: row.id, seed: row.seed, prompt: prompts.length > 1 ? prompts : prompts[0] };
  const text = JSON.stringify({ ...first, model: row.model, ...params, ...row.meta });
  // JavaScript would round it: the number is put in as it was written
  return text.replace(/^(\{"id":"[^"]*","seed":)"(\d+)"/, "$1$2");
}

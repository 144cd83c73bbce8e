"use strict";
// What the pages do in the browser. No library, nothing from elsewhere.

const $ = (id) => document.getElementById(id);
const csrf = document.querySelector('meta[name="csrf"]').content;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const fill = (text, ...values) => text.replace(/\{(\d)\}/g, (_, i) => values[i]);

async function ask(method, path, body) {
  const options = { method, headers: { "x-csrf-token": csrf } };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) { options.body = JSON.stringify(body); options.headers["content-type"] = "application/json"; }
  const answer = await fetch("/api/v1" + path, options);
  const content = await answer.json().catch(() => ({ detail: answer.statusText }));
  if (!answer.ok) throw new Error(content.detail || answer.statusText);
  return content;
}

function remember(name, value) { document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=strict`; }

for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => { remember("lang", button.dataset.language); location.reload(); });
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remember("theme", root.dataset.theme);
  document.dispatchEvent(new Event("themed"));
});
for (const select of document.querySelectorAll("[data-submit]")) select.addEventListener("change", () => select.form.submit());

// the worklist: send a picture
if ($("send")) $("send-file").addEventListener("change", async () => {
  const body = new FormData($("send"));
  try { location.href = "/case/" + (await ask("POST", "/cases", body)).id; }
  catch (error) { $("send-said").textContent = error.message; $("send-said").className = "bad"; }
});

// orders to the writer: remove from memory, roll back
async function order(method, path, output, text) {
  output.textContent = text;
  try {
    let state = await ask(method, path);
    for (let i = 0; i < 300 && !state.done; i++) { await sleep(200); state = await ask("GET", "/orders/" + state.number); }
    if (state.answer && state.answer.error) throw new Error(state.answer.error);
    for (let i = 0; i < 300; i++) { // until the server has loaded what is in service now
      const serving = (await ask("GET", "/versions")).find((v) => v.status === "in service");
      if (serving && serving.number === (await ask("GET", "/health")).version) break;
      await sleep(200);
    }
    location.reload();
  } catch (error) { output.textContent = error.message; output.className = "bad"; }
}
for (const button of document.querySelectorAll("[data-remove]")) button.addEventListener("click", () => {
  if (confirm(button.dataset.sure)) order("DELETE", "/memory/" + button.dataset.remove, $("memory-said"), $("memory-said").dataset.tRemoved);
});
for (const button of document.querySelectorAll("[data-serve]")) button.addEventListener("click", () => {
  if (confirm(button.dataset.sure)) order("POST", `/versions/${button.dataset.serve}/serve`, $("versions-said"), $("versions-said").dataset.tRolled);
});

// the dashboard: the queue and the version as they are now
if ($("queue")) setInterval(async () => {
  try { const now = await ask("GET", "/health"); $("queue").textContent = now.queue; $("version").textContent = now.version; } catch { /* the next time */ }
}, 2000);

if ($("case")) caseView($("case"));

function caseView(page) {
  const id = page.dataset.case, t = page.dataset, stage = $("stage"), canvas = $("view"), pen = canvas.getContext("2d");
  const view = { zoom: 1, x: 0, y: 0 };
  let pixels = null, shown = null, heat = null, heatCanvas = null, box = null, last = null, busy = false, asked = 0;
  let probability = Number(t.probability);

  // inferno, sixteen stops
  const stops = ["000004", "0c0926", "240c4f", "420a68", "5d126e", "781c6d", "932667", "ae305c", "c73e4c", "dd513a", "ed6925", "f8850f", "fca50a", "fac62d", "f2e661", "fcffa4"].map((h) => [0, 2, 4].map((i) => parseInt(h.slice(i, i + 2), 16)));
  const colour = (v) => { const p = Math.min(14.999, Math.max(0, v * 15)), i = Math.floor(p), f = p - i; return stops[i].map((c, k) => c + f * (stops[i + 1][k] - c)); };

  // the picture, windowed
  const image = new Image();
  image.onload = () => {
    const c = document.createElement("canvas"); c.width = image.naturalWidth; c.height = image.naturalHeight;
    const g = c.getContext("2d", { willReadFrequently: true }); g.drawImage(image, 0, 0);
    pixels = g.getImageData(0, 0, c.width, c.height); shown = c; windowed();
  };
  image.onerror = () => { $("stage-said").textContent = t.tNoPicture; };
  image.src = `/api/v1/cases/${id}/picture`;

  function windowed() {
    if (!pixels) return;
    const width = Number($("window").value), level = Number($("level").value), low = level - width / 2, turn = $("invert").checked;
    const table = new Uint8ClampedArray(256);
    for (let v = 0; v < 256; v++) { const w = ((v - low) / width) * 255; table[v] = turn ? 255 - Math.min(255, Math.max(0, w)) : w; }
    const out = new ImageData(pixels.width, pixels.height);
    for (let i = 0; i < pixels.data.length; i += 4) { for (let k = 0; k < 3; k++) out.data[i + k] = table[pixels.data[i + k]]; out.data[i + 3] = 255; }
    shown.getContext("2d").putImageData(out, 0, 0);
    draw();
  }

  // where the picture lies on the stage, in device pixels
  function place() {
    const s = Math.min(canvas.width / shown.width, canvas.height / shown.height) * view.zoom;
    return { s, x: (canvas.width - shown.width * s) / 2 + view.x * canvas.width, y: (canvas.height - shown.height * s) / 2 + view.y * canvas.height };
  }
  // the part of the picture that the model sees: the largest centred one of its shape
  function seen() {
    const ratio = Number(t.mapWidth) / Number(t.mapHeight), w = Math.min(shown.width, shown.height * ratio), h = Math.min(shown.height, shown.width / ratio);
    return { x: (shown.width - w) / 2, y: (shown.height - h) / 2, w, h };
  }

  function draw() {
    const rect = stage.getBoundingClientRect(), density = devicePixelRatio || 1;
    canvas.width = Math.round(rect.width * density); canvas.height = Math.round(rect.height * density);
    pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height);
    if (!shown) return;
    const p = place();
    pen.imageSmoothingEnabled = shown.width >= 128;
    pen.drawImage(shown, p.x, p.y, shown.width * p.s, shown.height * p.s);
    const least = Number($("cutoff").value) / 100, hidden = probability < least || least === 1; // no probability is 1: it was rounded
    $("stage-said").textContent = hidden ? t.tBelow : "";
    const v = seen(), at = [p.x + v.x * p.s, p.y + v.y * p.s, v.w * p.s, v.h * p.s];
    if (heatCanvas && $("heat-on").checked && !hidden) {
      pen.globalAlpha = Number($("opacity").value) / 100; pen.imageSmoothingEnabled = true; pen.imageSmoothingQuality = "high";
      pen.drawImage(heatCanvas, ...at); pen.globalAlpha = 1;
    }
    if (heat && $("contours").checked && !hidden) contours(at, density);
    if (box) {
      pen.strokeStyle = "#00e5ff"; pen.lineWidth = 2 * density;
      pen.strokeRect(p.x + box.x * shown.width * p.s, p.y + box.y * shown.height * p.s, box.width * shown.width * p.s, box.height * shown.height * p.s);
    }
  }

  // marching squares at three heights
  function contours([left, top, width, height], density) {
    const rows = heat.length, columns = heat[0].length;
    const point = (r, c) => [left + ((c + 0.5) / columns) * width, top + ((r + 0.5) / rows) * height];
    [[0.25, "#7ad151"], [0.5, "#fde725"], [0.75, "#ff5d3b"]].forEach(([level, stroke]) => {
      pen.strokeStyle = stroke; pen.lineWidth = 1.6 * density; pen.beginPath();
      for (let r = 0; r + 1 < rows; r++) for (let c = 0; c + 1 < columns; c++) {
        const corners = [[r, c], [r, c + 1], [r + 1, c + 1], [r + 1, c]], cuts = [];
        for (let k = 0; k < 4; k++) {
          const [a, b] = [corners[k], corners[(k + 1) % 4]], va = heat[a[0]][a[1]], vb = heat[b[0]][b[1]];
          if (va >= level !== vb >= level) { const f = (level - va) / (vb - va), pa = point(...a), pb = point(...b); cuts.push([pa[0] + f * (pb[0] - pa[0]), pa[1] + f * (pb[1] - pa[1])]); }
        }
        for (let k = 0; k + 1 < cuts.length; k += 2) { pen.moveTo(...cuts[k]); pen.lineTo(...cuts[k + 1]); }
      }
      pen.stroke();
    });
  }

  async function explain() {
    const mine = ++asked, target = $("target").value, query = target ? "?target=" + encodeURIComponent(target) : "";
    $("why").setAttribute("aria-busy", "true");
    try {
      let answer = await fetch(`/case/${id}/why${query}`), words = await answer.text();
      while (answer.status === 503 && answer.headers.has("retry-after") && mine === asked) { // others are explained first
        $("why").textContent = JSON.parse(words).detail;
        await sleep(1000 * Number(answer.headers.get("retry-after")));
        answer = await fetch(`/case/${id}/why${query}`); words = await answer.text();
      }
      if (!answer.ok) throw new Error(JSON.parse(words).detail);
      if (mine !== asked) return;
      $("why").innerHTML = words; // the map comes with the words, so that both are of one version and one class
      heat = JSON.parse($("explained").dataset.map); probability = Number($("explained").dataset.probability);
      heatCanvas = document.createElement("canvas"); heatCanvas.width = heat[0].length; heatCanvas.height = heat.length;
      const data = new ImageData(heatCanvas.width, heatCanvas.height);
      heat.flat().forEach((v, i) => { const rgb = colour(v); for (let k = 0; k < 3; k++) data.data[4 * i + k] = rgb[k]; data.data[4 * i + 3] = 255 * (0.25 + 0.75 * v); });
      heatCanvas.getContext("2d").putImageData(data, 0, 0);
    } catch (error) { if (mine === asked) $("why").textContent = `${t.tWhyFailed} ${error.message}`; }
    $("why").removeAttribute("aria-busy");
    draw();
  }

  // verdicts
  function say(text, kind) { const out = $("said-back"); out.textContent = text; out.className = kind || ""; }
  async function send(verdict, label) {
    if (busy) return;
    busy = true;
    try {
      const given = { case_id: id, verdict, said: t.said, version: Number(document.body.dataset.version), note: $("note").value, key: crypto.randomUUID ? crypto.randomUUID() : String(Math.random()) + Date.now() };
      if (label !== undefined) given.label = label;
      if (box) given.box = box;
      const row = await ask("POST", "/reviews", given);
      last = row.number;
      if (row.status === "learn") { say(fill(t.tSaved, row.number)); follow(row.number); }
      else say(fill(row.status === "check" ? t.tSavedCheck : t.tSavedUnsure, row.number), "good");
    } catch (error) { say(fill(t.tFailed, error.message), "bad"); }
    busy = false;
  }
  async function follow(number) {
    for (let i = 0; i < 600; i++) {
      await sleep(i < 50 ? 150 : 1000);
      let row; try { row = await ask("GET", "/reviews/" + number); } catch { continue; }
      if (last !== number || row.status !== "learn") return;
      if (row.in_service) {
        const now = await ask("GET", "/cases/" + id);
        const percent = (100 * now.score.probability).toFixed(1) + " %";
        $("said").textContent = now.score.label; $("said-p").textContent = percent; $("version").textContent = now.score.version;
        document.body.dataset.version = now.score.version; t.said = now.score.label;
        say(fill(t.tLearned, now.score.version, now.score.label, percent), "good");
        const fresh = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
        document.querySelector(".ranked").replaceWith(document.adoptNode(fresh.querySelector(".ranked")));
        explain();
        return;
      }
      if (row.learned && i > 4) {
        const newest = (await ask("GET", "/versions"))[0];
        if (newest.status === "refused") { // the dashboard says why in the language of the page
          const board = new DOMParser().parseFromString(await (await fetch("/dashboard")).text(), "text/html");
          say(fill(t.tHeldBack, board.querySelector("tr.refused .why").textContent), "bad"); return;
        }
      }
      if (i === 60) say(t.tStill);
    }
  }
  async function undo() {
    if (last === null) { const row = document.querySelector('[data-review]:not([data-status="withdrawn"])'); last = row ? Number(row.dataset.review) : null; }
    if (last === null) return say(t.tNothing);
    const number = last; last = null;
    try { await ask("DELETE", "/reviews/" + number); say(fill(t.tUndone, number), "good"); }
    catch (error) { say(fill(t.tFailed, error.message), "bad"); }
  }

  function reset() { view.zoom = 1; view.x = view.y = 0; $("zoom").value = 100; $("window").value = 255; $("level").value = 128; $("invert").checked = false; windowed(); }
  function zoomTo(value) { view.zoom = Math.min(8, Math.max(1, value)); $("zoom").value = 100 * view.zoom; if (view.zoom === 1) view.x = view.y = 0; draw(); }
  function showBox() { for (const side of ["x", "y", "width", "height"]) $("box-" + side).value = box ? (100 * box[side]).toFixed(1) : ""; draw(); }

  for (const name of ["heat-on", "opacity", "contours"]) $(name).addEventListener("input", draw);
  $("cutoff").addEventListener("input", () => { $("cutoff-said").textContent = $("cutoff").value + " %"; draw(); });
  for (const name of ["window", "level", "invert"]) $(name).addEventListener("input", windowed);
  $("zoom").addEventListener("input", () => zoomTo(Number($("zoom").value) / 100));
  $("reset").addEventListener("click", reset);
  $("target").addEventListener("change", explain);
  addEventListener("resize", draw);
  stage.addEventListener("wheel", (event) => { event.preventDefault(); zoomTo(view.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15)); }, { passive: false });

  // drag: pan, or draw a box
  let drag = null;
  const spot = (event) => { const r = stage.getBoundingClientRect(), d = canvas.width / r.width, p = place(); return [((event.clientX - r.left) * d - p.x) / (shown.width * p.s), ((event.clientY - r.top) * d - p.y) / (shown.height * p.s)].map((v) => Math.min(1, Math.max(0, v))); };
  stage.addEventListener("pointerdown", (event) => { if (!shown) return; stage.setPointerCapture(event.pointerId); drag = { x: event.clientX, y: event.clientY, from: spot(event), windows: event.shiftKey || event.button === 2 }; });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    if (drag.windows) { // as on a radiologist's screen: to the right wider, upwards brighter
      $("window").value = Number($("window").value) + (event.clientX - drag.x); $("level").value = Number($("level").value) + (event.clientY - drag.y) / 2;
      drag.x = event.clientX; drag.y = event.clientY; windowed();
    } else if ($("box-on") && $("box-on").checked) {
      const [a, b] = [drag.from, spot(event)];
      box = { x: Math.min(a[0], b[0]), y: Math.min(a[1], b[1]), width: Math.abs(a[0] - b[0]), height: Math.abs(a[1] - b[1]) };
      if (box.width < 0.005 || box.height < 0.005) box = null;
      showBox();
    } else {
      const r = stage.getBoundingClientRect();
      view.x += (event.clientX - drag.x) / r.width; view.y += (event.clientY - drag.y) / r.height; drag.x = event.clientX; drag.y = event.clientY; draw();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { drag = null; });

  const may = Boolean($("review"));
  const next = () => { if ($("next")) location.href = $("next").href; };
  if (may) {
    $("review").addEventListener("submit", (event) => event.preventDefault());
    $("accept").addEventListener("click", () => send("accept"));
    $("unsure").addEventListener("click", () => send("unsure"));
    $("undo").addEventListener("click", undo);
    $("correct").addEventListener("click", () => send("correct", $("label").value));
    const teach = () => { const name = $("new-label").value.trim(); if (name) send("correct", name); else $("new-label").focus(); };
    $("teach").addEventListener("click", teach);
    $("new-label").addEventListener("keydown", (event) => { if (event.key === "Enter") teach(); });
    $("box-on").addEventListener("change", () => stage.classList.toggle("boxing", $("box-on").checked));
    $("box-clear").addEventListener("click", () => { box = null; showBox(); });
    for (const side of ["x", "y", "width", "height"]) $("box-" + side).addEventListener("change", () => {
      const v = ["x", "y", "width", "height"].map((s) => Number($("box-" + s).value) / 100);
      box = v[2] > 0 && v[3] > 0 ? { x: v[0], y: v[1], width: Math.min(v[2], 1 - v[0]), height: Math.min(v[3], 1 - v[1]) } : null;
      draw();
    });
  }

  const toggle = (name) => { $(name).checked = !$(name).checked; $(name).dispatchEvent(new Event("input")); $(name).dispatchEvent(new Event("change")); };
  const pan = (x, y) => { view.x += x; view.y += y; draw(); };
  const keys = {
    h: () => toggle("heat-on"), k: () => toggle("contours"), i: () => toggle("invert"), 0: reset, n: next, "+": () => zoomTo(view.zoom * 1.25), "=": () => zoomTo(view.zoom * 1.25), "-": () => zoomTo(view.zoom / 1.25),
    ArrowLeft: () => pan(0.05, 0), ArrowRight: () => pan(-0.05, 0), ArrowUp: () => pan(0, 0.05), ArrowDown: () => pan(0, -0.05), "?": () => { const d = document.querySelector(".keys"); d.open = !d.open; d.scrollIntoView(); },
  };
  if (may) Object.assign(keys, { a: () => send("accept"), u: () => send("unsure"), z: undo, c: () => $("label").focus(), w: () => $("new-label").focus(), t: () => $("note").focus(), b: () => toggle("box-on") });
  addEventListener("keydown", (event) => {
    const inField = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "Escape") return document.activeElement.blur();
    if (event.target.id === "label" && event.key === "Enter") { event.preventDefault(); return send("correct", $("label").value); }
    if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const choices = may ? [...$("label").options] : [], digits = choices.some((o) => /^\d$/.test(o.value)); // classes that are digits are chosen by themselves
    const option = digits ? choices.find((o) => o.value === name) : /^[1-9]$/.test(name) ? choices[Number(name) - 1] : undefined;
    if (option && /^\d$/.test(name)) { event.preventDefault(); $("label").value = option.value; $("label").focus(); return; }
    if (name.startsWith("Arrow") && document.activeElement !== stage) return;
    if (keys[name]) { event.preventDefault(); keys[name](); }
  });

  explain();
}

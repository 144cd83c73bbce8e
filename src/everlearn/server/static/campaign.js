"use strict";
// What the pages of a campaign do in the browser; beside app.js, whose `ask`, `$`, `sleep` and `fill` it uses.

const told = (text, good) => { const line = $("campaign-said"); line.textContent = text; line.className = good ? "good" : "bad"; };
const newKey = () => (crypto.randomUUID ? crypto.randomUUID() : String(Math.random()) + Date.now());

for (const form of document.querySelectorAll("[data-decide]")) form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const note = form.elements.note ? form.elements.note.value : "";
  try { await ask("POST", "/decisions", { candidate: form.dataset.decide, verdict: event.submitter.value, note }); location.reload(); }
  catch (error) { told(error.message); }
});

for (const form of document.querySelectorAll("[data-result]")) {
  let key = newKey(); // the same until it is saved: sent twice, it counts once
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = form.querySelector("output"), candidate = form.dataset.result || form.elements.candidate.value;
    const values = Object.fromEntries([...form.querySelectorAll("[data-target]")].map((field) => [field.dataset.target, field.value]));
    try { await ask("POST", "/results", { candidate, values, key }); key = newKey(); location.reload(); }
    catch (error) { said.textContent = error.message; said.className = "bad"; }
  });
}

for (const button of document.querySelectorAll("[data-take-back]")) button.addEventListener("click", async () => {
  if (!confirm(button.dataset.sure)) return;
  try { await ask("DELETE", "/results/" + button.dataset.takeBack); location.reload(); }
  catch (error) { told(error.message); }
});

async function untilDone() {
  for (;;) {
    await sleep(500);
    const state = await ask("GET", "/health").catch(() => ({ working: true }));
    if (!state.working) return location.reload();
  }
}
if ($("propose")) $("propose").addEventListener("click", async () => {
  $("propose").disabled = true;
  try { await ask("POST", "/batch"); location.reload(); }
  catch (error) { $("propose").disabled = false; told(error.message); }
});
if ($("working")) untilDone();

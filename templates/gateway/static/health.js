// Asks the gateway for the health of each service, now and every half minute.
const states = [...document.querySelectorAll("[data-health]")];
const summary = document.getElementById("summary");

async function check(state) {
  let good = false;
  try {
    good = (await fetch(state.dataset.health, { cache: "no-store" })).ok;
  } catch {
    good = false;
  }
  state.className = `state ${good ? "good" : "bad"}`;
  state.setAttribute("aria-label", good ? "works" : "does not answer");
  return good;
}

async function checkAll() {
  const results = await Promise.all(states.map(check));
  const bad = results.filter((good) => !good).length;
  summary.textContent = bad ? `${bad} of ${results.length} do not answer` : `all ${results.length} services answer`;
}

if (states.length) {
  checkAll();
  setInterval(checkAll, 30000);
}

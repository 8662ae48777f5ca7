// Asks the gateway for the health of each service, now and every half minute.
const states = [...document.querySelectorAll("[data-health]")];
const summary = document.getElementById("summary");

async function check(path) {
  let good = false;
  try {
    good = (await fetch(path, { cache: "no-store" })).ok;
  } catch {
    good = false;
  }
  for (const state of states.filter((each) => each.dataset.health === path)) {
    state.className = `state ${good ? "good" : "bad"}`;
    state.setAttribute("aria-label", good ? "works" : "does not answer");
  }
  return good;
}

async function checkAll() {
  const results = await Promise.all([...new Set(states.map((each) => each.dataset.health))].map(check));
  const bad = results.filter((good) => !good).length;
  summary.textContent = bad ? `${bad} of ${results.length} do not answer` : `all ${results.length} services answer`;
}

if (states.length) {
  checkAll();
  setInterval(checkAll, 30000);
}

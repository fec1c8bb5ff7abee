// ---- the page as a whole

const explorers = Object.keys(EXPLORERS);
let drawing = Promise.resolve();

function showView() {
  document.documentElement.classList.toggle('dark', view.dark);
  for (const name in view) $('#' + name).setAttribute('aria-pressed', view[name]);
}

async function drawOnce() {
  for (const name in FIGURES) {
    if (explorers.includes(name)) await drawExplorer(name);
    else await drawFigure(name);
    await new Promise((done) => setTimeout(done)); // so that the page reacts between two figures
  }
}

// One after the other, because a figure cannot be drawn twice at once. Tests wait until nothing is busy.
window.__busy = 0;
function inTurn(draw) {
  window.__busy += 1;
  drawing = drawing.then(draw, draw).finally(() => { window.__busy -= 1; });
  return drawing;
}
const drawAll = () => inTurn(drawOnce);

for (const name in view) {
  if (address().has(name)) view[name] = address().get(name) === '1';
  $('#' + name).onclick = () => {
    view[name] = !view[name];
    remember({ [name]: view[name] ? '1' : '0' });
    showView();
    drawAll();
  };
}
narrow.addEventListener('change', drawAll);
document.querySelectorAll('[data-latex]').forEach((button) => { button.onclick = () => saveLatex(button.dataset.latex); });
$('#print').onclick = () => print();
document.querySelectorAll('[data-svg]').forEach((button) => { button.onclick = () => saveSvg(button.dataset.svg); });

// A link on the page contains only the run, so the rest of the view is added to the address again.
addEventListener('hashchange', (event) => {
  const before = new URLSearchParams(new URL(event.oldURL).hash.slice(1));
  const run = address().get('run');
  if (run !== null && [...address().keys()].length === 1) {
    before.delete('run');
    remember(Object.fromEntries(before));
  }
  openRun(run);
});
addEventListener('keydown', (event) => { if (event.key === 'Escape') shut(); });

showView();
for (const name of explorers) setUpExplorer(name, EXPLORERS[name]);
setUpTable();
setUpFilters();
restoreComparison();
applyFilters();
$('#reset').hidden = visibleRuns === null;
drawTable();
drawComparison();
await drawAll();
await setUpGallery();
openRun(address().get('run'));
window.__ready = true; // tests wait for this

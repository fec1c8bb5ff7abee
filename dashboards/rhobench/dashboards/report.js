// Behaviour of the report page. The page defines FIGURES (Plotly JSON by name), RUNS (details by run id) and DARK (dark
// colour by light colour). The view and the open run are part of the address, so that a link reproduces them.
(() => {
  'use strict';
  const $ = (selector) => document.querySelector(selector);
  const address = () => new URLSearchParams(location.hash.slice(1));
  const narrow = matchMedia('(max-width: 600px)');
  const view = { log: false, front: false, dark: matchMedia('(prefers-color-scheme: dark)').matches };

  function remember(changes) {
    const parameters = address();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) parameters.delete(name);
      else parameters.set(name, value);
    }
    history.replaceState(null, '', '#' + parameters);
  }

  // ---- figures

  const isFront = (figure) => figure.data.some((trace) => trace.meta === 'front');

  function themed(figure) {
    let text = JSON.stringify(figure);
    if (view.dark) for (const [light, dark] of Object.entries(DARK)) text = text.replaceAll(light, dark);
    return JSON.parse(text);
  }

  function arranged(name) {
    const figure = themed(FIGURES[name]);
    const { data, layout } = figure;
    if (isFront(figure)) {
      layout.xaxis.type = view.log ? 'log' : 'linear';
      for (const trace of data) if (trace.meta === 'dominated') trace.visible = !view.front;
    }
    if (narrow.matches) {
      layout.height = 360;
      layout.margin = { ...layout.margin, l: 46, r: 34 };
      layout.font.size = 12;
      layout.xaxis.nticks = 5;
    }
    return figure;
  }

  async function draw() {
    document.documentElement.classList.toggle('dark', view.dark);
    for (const name in view) $('#' + name).setAttribute('aria-pressed', view[name]);
    const options = {
      responsive: true, displaylogo: false,
      modeBarButtonsToRemove: ['lasso2d', 'select2d', 'autoScale2d'],
      toImageButtonOptions: { format: 'svg', filename: 'rhobench' },
    };
    for (const name in FIGURES) {
      const element = $('#plot-' + name);
      const figure = arranged(name);
      const first = !element.data;
      await Plotly.react(element, figure.data, figure.layout, options);
      if (first) element.on('plotly_click', (event) => open(event.points[0].customdata?.at(-1)));
    }
    window.__ready = true; // tests wait for this
  }

  for (const name in view) {
    if (address().has(name)) view[name] = address().get(name) === '1';
    $('#' + name).onclick = () => {
      view[name] = !view[name];
      remember({ [name]: view[name] ? '1' : '0' });
      draw();
    };
  }
  narrow.addEventListener('change', draw);

  // ---- details of a run

  function element(tag, text, children = []) {
    const node = document.createElement(tag);
    if (text) node.textContent = text; // never innerHTML: text of records is untrusted
    node.append(...children);
    return node;
  }

  function runLink(run) {
    const link = element('a', run);
    link.href = '#run=' + encodeURIComponent(run);
    return link;
  }

  function open(run) {
    const card = $('#card');
    if (run === null || !Object.hasOwn(RUNS, run)) return;
    const { status, reason, siblings, sections } = RUNS[run];
    const close = element('button', 'Close');
    close.className = 'close';
    close.onclick = shut;
    const state = element('span', status);
    state.className = status;
    card.replaceChildren(close, element('h2', run), element('p', '', [state, reason ? ': ' + reason : '']));
    const others = siblings.filter((sibling) => sibling !== run);
    if (others.length) card.append(element('h3', 'Other seeds'), ...others.map((other) => element('div', '', [runLink(other)])));
    for (const [title, items] of sections) {
      const rows = items.map(([name, text]) => element('div', '', [element('dt', name), element('dd', text)]));
      card.append(element('h3', title), element('dl', '', rows));
    }
    card.hidden = false;
    card.scrollTop = 0;
    card.focus({ preventScroll: true });
    remember({ run });
  }

  function shut() {
    $('#card').hidden = true;
    remember({ run: null });
  }

  // A link on the page contains only the run, so the view is added to the address again.
  addEventListener('hashchange', () => {
    open(address().get('run'));
    remember({ log: +view.log, front: +view.front, dark: +view.dark });
  });
  addEventListener('keydown', (event) => { if (event.key === 'Escape') shut(); });

  // ---- table of runs

  const body = $('#runs tbody');
  const heads = [...document.querySelectorAll('#runs th')];
  const rows = [...body.rows];

  function sortBy(index) {
    const descending = heads[index].getAttribute('aria-sort') !== 'descending';
    heads.forEach((head) => head.removeAttribute('aria-sort'));
    heads[index].setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    const numeric = heads[index].classList.contains('n');
    const missing = descending ? -Infinity : Infinity; // missing values come last in both orders
    const key = (row) => {
      const text = row.cells[index].textContent;
      if (!numeric) return text;
      return text === 'dense' ? 1.01 : Number.isNaN(+text) ? missing : +text;
    };
    const compare = (a, b) => (numeric ? a - b || 0 : a.localeCompare(b));
    rows.sort((a, b) => (descending ? -1 : 1) * compare(key(a), key(b)));
    body.append(...rows);
  }
  heads.forEach((head, index) => { head.firstChild.onclick = () => sortBy(index); });

  $('#filter').oninput = (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  };

  $('#csv').onclick = () => {
    // Text that a spreadsheet would evaluate as a formula gets a leading apostrophe; numbers are unchanged.
    const inert = (text) => (/^[\s=+\-@]/.test(text) && Number.isNaN(Number(text)) ? "'" + text : text);
    const quoted = (cell) => '"' + inert(cell.textContent).replaceAll('"', '""') + '"';
    const lines = [heads, ...rows.filter((row) => !row.hidden).map((row) => [...row.cells])];
    const text = '\ufeff' + lines.map((cells) => cells.map(quoted).join(',')).join('\r\n'); // Excel needs the byte order mark to read ρ
    const link = element('a');
    link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
    link.download = 'runs.csv';
    link.click();
    URL.revokeObjectURL(link.href);
  };

  draw().then(() => open(address().get('run')));
})();

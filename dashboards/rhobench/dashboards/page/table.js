// ---- table of runs

const FIRST_ROWS = 100;
const MORE_ROWS = 500;
const chosen = []; // point keys that are compared
const order = { name: 'ap', descending: true };
let shownRows = FIRST_ROWS;

function runLink(run, words = run) {
  return element('a', words, [], { href: '#run=' + encodeURIComponent(run) });
}

const isNumber = (name) => Object.hasOwn(DATA.metrics, name) || allRows.some((row) => typeof value(name, row) === 'number');

function sortedRows() {
  const { name, descending } = order;
  const values = column(name);
  const missing = name.startsWith('rho') ? 1.01 : descending ? -Infinity : Infinity; // dense comes after every ρ; others last
  const key = (row) => values[row] ?? (isNumber(name) ? missing : '');
  const sign = descending ? -1 : 1;
  const compare = isNumber(name) ? (a, b) => key(a) - key(b) || 0 : (a, b) => String(key(a)).localeCompare(String(key(b)));
  return [...visible].sort((a, b) => sign * compare(a, b) || a - b);
}

function cell(name, row) {
  const words = format(name, value(name, row), row);
  const attributes = isNumber(name) ? { class: 'n' } : {};
  if (name === 'status' || name === 'timing_status') return element('td', '', [element('span', words, [], { class: words })], attributes);
  return element('td', words, [], attributes);
}

function tableRow(row) {
  const key = pointKey(row);
  const box = element('input', '', [], {
    type: 'checkbox', 'aria-label': `compare ${key}`, onchange: () => choose(row, box.checked),
  });
  box.checked = chosen.includes(key);
  box.disabled = !box.checked && chosen.length >= MAX_COMPARED;
  return element('tr', '', [
    element('td', '', [box]),
    element('td', '', [runLink(value('run_id', row))], { title: value('run_id', row) }),
    ...DATA.table.map((name) => cell(name, row)),
  ]);
}

function drawTable() {
  const rows = sortedRows();
  $('#runs tbody').replaceChildren(...rows.slice(0, shownRows).map(tableRow));
  const left = rows.length - Math.min(shownRows, rows.length);
  $('#count').textContent = `${rows.length.toLocaleString('en')} of ${DATA.rows.toLocaleString('en')} points` + (left ? `; the first ${shownRows} are listed` : '');
  $('#more').hidden = left === 0;
  $('#more').textContent = `List ${Math.min(MORE_ROWS, left)} more`;
}

function sortBy(name, head) {
  order.descending = order.name === name ? !order.descending : true;
  order.name = name;
  document.querySelectorAll('#runs th').forEach((other) => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', order.descending ? 'descending' : 'ascending');
  drawTable();
}

function setUpTable() {
  const heads = ['run_id', ...DATA.table].map((name) => {
    const button = element('button', label(name), [], { title: name });
    const head = element('th', '', [button], { scope: 'col', class: isNumber(name) ? 'n' : '' });
    button.onclick = () => sortBy(name, head);
    if (name === order.name) head.setAttribute('aria-sort', 'descending');
    return head;
  });
  $('#runs thead tr').append(element('th', '', [element('span', 'Compare', [], { class: 'hidden-text' })], { scope: 'col' }), ...heads);
  const shared = DATA.rows ? DATA.shared.map((name) => [label(name), format(name, value(name, 0), 0)]).filter(([, words]) => words !== '–') : [];
  $('#shared').textContent = shared.length && DATA.rows > 1 ? 'Same in all: ' + shared.map(([name, words]) => `${name} ${words}`).join(' · ') : '';
  $('#more').onclick = () => { shownRows += MORE_ROWS; drawTable(); };
  $('#csv').onclick = saveCsv;
}

// Full precision, under the names of Store.frame(), of the rows that pass the filters
function saveCsv() {
  // Text that a spreadsheet would evaluate as a formula gets a leading apostrophe.
  const inert = (words) => (/^[\s=+\-@]/.test(words) ? "'" + words : words);
  const quoted = (words) => '"' + String(words).replaceAll('"', '""') + '"';
  const field = (item) => (item === null ? '' : typeof item === 'string' ? quoted(inert(item)) : typeof item === 'boolean' ? (item ? 'True' : 'False') : String(item));
  const columns = DATA.csv.map(column);
  const lines = [DATA.csv.map(quoted), ...sortedRows().map((row) => columns.map((values) => field(values[row])))];
  save('runs.csv', 'text/csv', '\ufeff' + lines.map((fields) => fields.join(',')).join('\r\n')); // Excel needs the byte order mark to read ρ
}

// ---- filters

function distinct(name) {
  const texts = new Map();
  for (const row of allRows) texts.set(format(name, value(name, row), row), value(name, row));
  const rank = (item) => (item === null ? Infinity : item);
  return [...texts].sort(([a, p], [b, q]) => (typeof p === 'number' || typeof q === 'number' ? rank(p) - rank(q) || 0 : a.localeCompare(b))).map(([words]) => words);
}

const MAX_VALUES = 200;

function setUpFilters() {
  const panel = $('#fields');
  const saved = address();
  for (const name of DATA.filters) {
    const values = distinct(name);
    if (values.length < 2 || values.length > MAX_VALUES) continue; // every run its own value: the search finds it
    const options = ['', ...values].map((words) => element('option', words === '' ? 'all' : words, [], { value: words }));
    const select = element('select', '', options, { 'data-field': name });
    select.onchange = () => {
      if (select.value === '') delete filters[name];
      else filters[name] = select.value;
      remember({ ['f.' + name]: select.value });
      refilter();
    };
    const wanted = saved.get('f.' + name);
    if (values.includes(wanted)) select.value = filters[name] = wanted;
    panel.append(element('label', '', [element('span', label(name), [], { title: name }), select]));
  }
  searched = saved.get('q') ?? '';
  $('#filter').value = searched;
  let waiting;
  $('#filter').oninput = (event) => {
    searched = event.target.value;
    clearTimeout(waiting);
    waiting = setTimeout(() => { remember({ q: searched }); refilter(); }, DATA.rows > 2000 ? 250 : 60);
  };
  $('#reset').onclick = () => {
    for (const name of Object.keys(filters)) { delete filters[name]; remember({ ['f.' + name]: null }); }
    panel.querySelectorAll('select').forEach((select) => { select.value = ''; });
    $('#filter').value = searched = '';
    remember({ q: null });
    refilter();
  };
}

function refilter() {
  applyFilters();
  shownRows = FIRST_ROWS;
  $('#reset').hidden = visibleRuns === null;
  $('#filtered').textContent = visibleRuns === null ? '' : `${visible.length.toLocaleString('en')} of ${DATA.rows.toLocaleString('en')} points pass`;
  drawTable();
  return drawAll();
}

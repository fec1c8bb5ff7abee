// ---- details of a run

const POINT = ['protocol', 'device', 'backend', 'threads', 'batch_size', 'precision', 'height', 'width', 'flops_count', 'latency_samples',
  'load_average', 'busy_cores', 'co_running', 'timing_status', 'samples_file', 'manifest_file'];
const COST = ['train_seconds', 'eval_seconds', 'cpu_seconds', 'gpu_seconds', 'started_at', 'finished_at'];

function definitions(items) {
  return element('dl', '', items.map(([name, words]) => element('div', '', [element('dt', name), element('dd', words)])));
}

const known = (names, row) =>
  names.filter((name) => name in DATA.columns && value(name, row) !== null).map((name) => [DATA.labels[name] ?? name, format(name, value(name, row), row)]);

function measured(row) {
  const metrics = Object.keys(DATA.metrics).filter((name) => value(name, row) !== null).map((name) => {
    const ends = DATA.metrics[name].interval?.map((end) => value(end, row));
    const range = ends && ends.every((end) => end !== null && end !== undefined) ? ` [${ends.map((end) => formatMetric(name, end)).join(' to ')}]` : '';
    return [DATA.metrics[name].title, formatMetric(name, value(name, row)) + range];
  });
  const status = value('timing_status', row);
  const reason = 'timing_reason' in DATA.columns && value('timing_reason', row);
  const note = [['Note', `The time may not enter a front: ${reason || status}.`]];
  return [...(status && status !== 'ok' ? note : []), ...metrics, ...known(POINT, row)];
}

async function copyAddress(button) {
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = 'Link copied';
  } catch { // not every browser lets a page that was opened from disk copy
    button.textContent = 'The address of this page is the link';
  }
}

function openRun(run) {
  if (run === null || run === undefined || !Object.hasOwn(DATA.runs, run) || !rowsOfRun.has(run)) return;
  const card = $('#card');
  const rows = rowsOfRun.get(run);
  const [first] = rows;
  const details = DATA.runs[run];
  const status = value('status', first);
  const reason = value('reason', first);
  const close = element('button', 'Close', [], { class: 'close', onclick: shut });
  const compare = element('button', 'Compare', [], { onclick: () => { rows.slice(0, MAX_COMPARED - chosen.length).forEach((row) => choose(row, true)); shut(); } });
  const copy = element('button', 'Copy link', [], { onclick: () => copyAddress(copy) });
  card.replaceChildren(
    close, element('h2', run), element('p', '', [element('span', status, [], { class: status }), reason ? ': ' + reason : '']),
    element('div', '', [compare, copy], { class: 'tools' }));
  const section = (title, items) => { if (items.length) card.append(element('h3', title), definitions(items)); };
  if (details.warnings) section('Warnings of the training', details.warnings.map((words, i) => [String(i + 1), words]));
  if (details.attempts) section(`${details.attempts.length} attempt${details.attempts.length > 1 ? 's' : ''} failed before`, details.attempts);
  section('What varies between runs', DATA.varied.map((name) => [label(name), format(name, value(name, first), first)]));
  const configuration = value('configuration', first);
  const others = [...new Set(allRows.filter((row) => value('configuration', row) === configuration).map((row) => value('run_id', row)))].filter((other) => other !== run);
  if (others.length) card.append(element('h3', 'Other seeds'), ...others.slice(0, 20).map((other) => element('div', '', [runLink(other)])));
  for (const row of rows) {
    const items = measured(row);
    if (items.length) section('Measured at ' + (value('rho_infer', row) === null ? 'every token (dense)' : `ρ ${value('rho_infer', row)}`), items);
  }
  section('Cost of the run', known(COST, first));
  const folded = (title, items) => card.append(element('details', '', [element('summary', title), definitions(items)]));
  const paths = DATA.csv.filter((name) => name.includes('.'));
  folded('Configuration', paths.map((name) => [name, value(name, first) === null ? 'none' : String(value(name, first))]));
  folded('Environment', Object.entries(DATA.environments[details.environment] ?? {}));
  card.hidden = false;
  card.scrollTop = 0;
  card.focus({ preventScroll: true });
  remember({ run });
}

function shut() {
  $('#card').hidden = true;
  remember({ run: null });
}

// ---- comparison of two to five points

const MAX_COMPARED = 5;

function rowOf(key) {
  const at = key.lastIndexOf('@');
  return (rowsOfRun.get(key.slice(0, at)) ?? []).find((row) => pointKey(row) === key);
}

function choose(row, wanted) {
  const key = pointKey(row);
  const at = chosen.indexOf(key);
  if (wanted && at < 0 && chosen.length < MAX_COMPARED) chosen.push(key);
  if (!wanted && at >= 0) chosen.splice(at, 1);
  remember({ compare: chosen.join(',') });
  drawTable();
  drawComparison();
}

function comparedRow(title, cells, best) {
  const items = cells.map((words, i) => element('td', words, [], { class: i === best ? 'n best' : 'n' }));
  return element('tr', '', [element('th', title, [], { scope: 'row' }), ...items]);
}

function numberRow(title, numbers, formatted, better) {
  const known = numbers.filter((number) => number !== null && number !== undefined);
  if (!known.length) return null;
  const top = better === 'lower' ? Math.min(...known) : Math.max(...known);
  const best = known.length > 1 && known.some((number) => number !== top) ? numbers.indexOf(top) : -1;
  const cells = numbers.map((number, i) => {
    if (number === null || number === undefined) return '–';
    if (i === 0 || numbers[0] === null || numbers[0] === undefined) return formatted(number);
    const difference = formatted(number - numbers[0]);
    return `${formatted(number)} (${difference.startsWith('-') ? '−' + difference.slice(1) : '+' + difference})`;
  });
  return comparedRow(title, cells, best);
}

function group(title, rows) {
  const shown = rows.filter(Boolean);
  const span = element('th', title, [], { colspan: chosen.length + 1, scope: 'rowgroup', class: 'group' });
  return shown.length ? [element('tr', '', [span]), ...shown] : [];
}

function breakdownRows(table, rows, scale, digits, better) {
  return table.names.map((name, code) => {
    const numbers = rows.map((row) => table.points[row]?.[code] ?? null);
    return numberRow(name, numbers, (number) => formatNumber(number * scale, digits), better);
  });
}

function drawComparison() {
  const section = $('#compare');
  const rows = chosen.map(rowOf).filter((row) => row !== undefined);
  section.hidden = rows.length === 0;
  if (!rows.length) return;
  const clear = element('button', 'Clear', [], { onclick: () => { chosen.splice(0); remember({ compare: null }); drawTable(); drawComparison(); } });
  const bar = element('div', '', [element('h2', 'Comparison'), clear], { class: 'bar' });
  if (rows.length < 2) {
    section.replaceChildren(bar, element('p', 'Choose one to four more runs in the table below.', [], { class: 'sub' }));
    return;
  }
  const heads = rows.map((row) => {
    const remove = element('button', '×', [], { 'aria-label': `remove ${pointKey(row)}`, onclick: () => choose(row, false) });
    const rho = value('rho_infer', row);
    return element('th', '', [runLink(value('run_id', row)), element('small', rho === null ? ' dense ' : ` ρ ${rho} `), remove], { scope: 'col' });
  });
  const settings = ['experiment', 'model', 'backbone', 'rho', 'rho_infer', 'seed', 'dataset', 'device', ...DATA.csv.filter((name) => name.includes('.'))];
  const twice = new Set(['model.name', 'model.backbone.name', 'model.rho', 'measure.rhos']);
  const differing = settings.filter((name) => !twice.has(name) && differs(name, rows));
  const metrics = Object.entries(DATA.metrics).map(([name, m]) =>
    numberRow(m.title, rows.map((row) => value(name, row)), (number) => formatNumber(number * m.scale, m.digits), m.better));
  const cost = ['train_seconds', 'gpu_seconds'].map((name) =>
    name in DATA.columns ? numberRow(DATA.labels[name], rows.map((row) => value(name, row) || null), (number) => number.toFixed(0), 'lower') : null);
  const body = element('tbody', '', [
    ...group('What differs', differing.map((name) => comparedRow(label(name), rows.map((row) => format(name, value(name, row), row)), -1))),
    ...group('What it does', [...metrics, ...cost]),
    ...group('AP by class', breakdownRows(DATA.classes, rows, 100, 1, 'higher')),
    ...group('GFLOPs by part', breakdownRows(DATA.parts, rows, 1, 3, 'lower')),
    ...group('Milliseconds by part', breakdownRows(DATA.part_times, rows, 1, 2, 'lower')),
  ]);
  const table = element('table', '', [element('thead', '', [element('tr', '', [element('td', ''), ...heads])]), body]);
  section.replaceChildren(bar, element('div', '', pairedVerdicts(rows).map((words) => element('p', words)), { class: 'sub verdict' }), element('div', '', [table], { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Comparison' }));
}

function restoreComparison() {
  const wanted = (address().get('compare') ?? '').split(',').filter((key) => key && rowOf(key) !== undefined);
  chosen.splice(0, chosen.length, ...wanted.slice(0, MAX_COMPARED));
}

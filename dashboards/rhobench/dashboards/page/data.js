// ---- the points of the store. A column is one value for all rows, a list of values, or texts with their numbers.

const ended = new Set(DATA.ended);
const unpacked = new Map();

function column(name) {
  if (!unpacked.has(name)) {
    const { same, values, levels, codes } = DATA.columns[name] ?? { same: null };
    if (values) unpacked.set(name, values);
    else if (codes) unpacked.set(name, codes.map((code) => (code < 0 ? null : levels[code])));
    else unpacked.set(name, new Array(DATA.rows).fill(same));
  }
  return unpacked.get(name);
}

const value = (name, row) => column(name)[row];
const allRows = Array.from({ length: DATA.rows }, (_, row) => row);

const rowsOfRun = new Map();
for (const row of allRows) {
  const run = value('run_id', row);
  if (rowsOfRun.has(run)) rowsOfRun.get(run).push(row);
  else rowsOfRun.set(run, [row]);
}

// Key of each row in the address: RUN@RHO, and RUN@RHO~2 for the second point of a run at that rho, such as one in another
// precision.
const pointKeys = (() => {
  const seen = new Map();
  return allRows.map((row) => {
    const rho = value('rho_infer', row);
    const key = `${value('run_id', row)}@${rho === null ? 'dense' : +rho.toPrecision(6)}`;
    seen.set(key, (seen.get(key) ?? 0) + 1);
    return seen.get(key) === 1 ? key : `${key}~${seen.get(key)}`;
  });
})();
const pointKey = (row) => pointKeys[row];

function formatNumber(number, digits) {
  return number.toFixed(Math.abs(number) >= 100 ? Math.min(digits, 1) : digits);
}

function formatMetric(name, number) {
  if (number === null || Number.isNaN(number)) return '–';
  const { scale, digits } = DATA.metrics[name];
  return formatNumber(number * scale, digits);
}

function format(name, item, row) {
  if (Object.hasOwn(DATA.metrics, name)) return formatMetric(name, item);
  if (name === 'rho' && row !== undefined && value('sampled', row)) return 'sampled';
  const foreign = row !== undefined && value('foreign', row); // neither a ρ nor a seed of ours
  if (item === null) return !foreign && (name === 'rho' || name === 'rho_infer') ? 'dense' : '–';
  if (foreign && name === 'seed') return '–';
  if (typeof item === 'boolean') return item ? 'yes' : 'no';
  if (typeof item !== 'number') return item;
  if (name.endsWith('_seconds')) return item.toFixed(0);
  if (name === 'busy_cores' || name === 'load_average' || name.endsWith('_ms')) return item.toFixed(2);
  return String(+item.toPrecision(6));
}

const label = (name) => DATA.short[name] ?? DATA.labels[name] ?? name;
const isTimed = (...names) => names.some((name) => DATA.metrics[name].timed);

// ---- filters and search, which reach the table and the figures

const filters = {};
let searched = '';
let visible = allRows;
let visibleRuns = null; // null: all
const rowTexts = [];

// "enc_layers 4" and "ρ 0.1" are found as well as parts of names.
function rowText(row) {
  if (rowTexts[row] === undefined) {
    const fields = [...new Set([...DATA.filters, 'rho', 'rho_infer'])];
    const named = fields.map((name) => `${name === 'rho_infer' ? 'ρ' : label(name)} ${format(name, value(name, row), row)}`);
    const text = [value('run_id', row), value('label', row), ...named, ...DATA.table.map((name) => format(name, value(name, row), row))];
    rowTexts[row] = ' ' + text.join(' ').toLowerCase() + ' ';
  }
  return rowTexts[row];
}

function matches(row, phrase, words) {
  const text = rowText(row);
  return text.includes(phrase) || words.every((word) => text.includes(word));
}

const hasField = (phrase) => [...DATA.filters, 'rho_infer'].some((name) => phrase.startsWith(label(name).toLowerCase() + ' '));

function applyFilters() {
  const chosen = Object.entries(filters);
  const phrase = searched.toLowerCase().trim();
  // After a name of a field, the words are one value and not independent of each other.
  const words = hasField(phrase) ? ['\n'] : phrase.split(/\s+/);
  const kept = (row) =>
    chosen.every(([name, wanted]) => format(name, value(name, row), row) === wanted) &&
    (phrase === '' || matches(row, ' ' + phrase, words) || (words[0] !== '\n' && matches(row, phrase, words)));
  const all = chosen.length === 0 && phrase === '';
  visible = all ? allRows : allRows.filter(kept);
  visibleRuns = all ? null : new Set(visible.map((row) => value('run_id', row)));
}

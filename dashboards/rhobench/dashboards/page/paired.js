// ---- paired tests, which the page has for the best points of the store

// What decides the AP of a row: its run, and how that was evaluated.
const artifact = (row) => [value('run_id', row), ...DATA.configuration.map((name) => value(name, row))].join('\u0000');
const tested = new Map(DATA.paired.points.map((row, i) => [artifact(row), i]));
const tests = new Map(DATA.paired.tests.map(([i, j, ...numbers]) => [`${i} ${j}`, numbers]));

const sideKey = (rows) => rows.map(artifact).sort().join('\u0001');
const sides = new Map(DATA.paired.configurations.sides.map((rows, i) => [sideKey(rows), i]));
const sideTests = new Map(DATA.paired.configurations.tests.map(([i, j, p]) => [`${Math.min(i, j)} ${Math.max(i, j)}`, p]));

// P-values of all pairs of configurations with all their seeds; null if one of them is not known, as with a filter.
function configurationTests(groups) {
  const numbers = groups.map((group) => sides.get(sideKey([...group.runs.values()].map(([row]) => row))));
  if (numbers.includes(undefined)) return null;
  const found = numbers.flatMap((i, at) => numbers.slice(at + 1).map((j) => sideTests.get(`${Math.min(i, j)} ${Math.max(i, j)}`)));
  return found.includes(undefined) ? null : found;
}

// The test of two points; the difference is that of the second minus that of the first.
function pairedTest(first, second) {
  const [i, j] = [first, second].map((row) => tested.get(artifact(row)));
  if (tests.has(`${i} ${j}`)) {
    const [difference, low, high, p] = tests.get(`${i} ${j}`);
    return { difference, low, high, p };
  }
  if (!tests.has(`${j} ${i}`)) return null;
  const [difference, low, high, p] = tests.get(`${j} ${i}`);
  return { difference: -difference, low: -high, high: -low, p };
}

// Corrects p-values for their number, as rhobench.statistics.difference.holm does.
function holm(found) {
  let largest = 0;
  const sorted = [...found].sort((a, b) => a.p - b.p);
  sorted.forEach((test, rank) => { test.corrected = largest = Math.max(largest, Math.min(1, (found.length - rank) * test.p)); });
}

function signed(name, number) {
  const { scale, digits } = DATA.metrics[name];
  const words = (number * scale).toFixed(digits);
  return +words === 0 ? (0).toFixed(digits) : (words.startsWith('-') ? '−' + words.slice(1) : '+' + words);
}

const pValue = (p) => (p < 0.001 ? 'p < 0.001' : `p = ${+p.toPrecision(2)}`);
const nameOf = (row) => `${value('label', row)} (seed ${value('seed', row)})`;

function pairedVerdicts(rows) {
  const found = rows.slice(1).map((row) => ({ row, ...pairedTest(rows[0], row) }));
  const known = found.filter((test) => test.p !== undefined);
  holm(known);
  const sentences = known.map((test) => {
    const verdict = test.corrected >= 0.05 ? 'is not shown to differ from' : `is ${test.difference > 0 ? 'better' : 'worse'} than`;
    return `${nameOf(test.row)} ${verdict} ${nameOf(rows[0])}: AP ${signed('ap', test.difference)} (95 % from ${signed('ap', test.low)} to ${signed('ap', test.high)}), ${pValue(test.corrected)}.`;
  });
  if (known.length) {
    const corrected = known.length > 1 ? `, corrected for ${known.length} comparisons (Holm)` : '';
    sentences.push(`Paired test on the same validation images${corrected}; it holds for these trained models and not for other seeds.`);
  }
  if (known.length < found.length) {
    const limit = DATA.paired.untested ? `The page tests ${DATA.paired.points.length} points against each other. ` : '';
    const which = known.length ? `${found.length - known.length} of the others` : 'these';
    sentences.push(`No paired test of ${which} is on this page, so their differences may be noise. ${limit}rhobench compare tests runs whose evaluations are stored.`);
  }
  return sentences;
}

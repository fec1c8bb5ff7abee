// ---- figures of two metrics. They are drawn from the points, so that filters and a choice of axes change the front.
// The rules are those of rhobench.results.by_configuration and of the figure `pareto`; a test compares the results.

const FAINT = '66'; // opacity of the bars of what is not on the front
const MANY = 5000; // points from which WebGL draws them
const axesOf = {}; // name of the figure -> { x, y, budget }

const differs = (name, rows) => rows.some((row) => value(name, row) !== value(name, rows[0]));
const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

function deviation(numbers) {
  if (numbers.length < 2) return null;
  const middle = mean(numbers);
  return Math.sqrt(numbers.reduce((sum, number) => sum + (number - middle) ** 2, 0) / (numbers.length - 1));
}

const text = (name, item) => (typeof item === 'string' ? item : `${name} ${item === null ? 'none' : +item.toPrecision(6)}`);

// Seeds of a configuration are averaged; each setting in which values cannot be compared has a front of its own.
function configurations(rows, x, y) {
  const settings = [...new Set([...DATA.metrics[x].must_agree, ...DATA.metrics[y].must_agree])];
  const known = rows.filter((row) => !ended.has(value('status', row)) && value(x, row) !== null && value(y, row) !== null);
  const varying = settings.filter((name) => known.length && differs(name, known));
  const keys = [...DATA.configuration, ...settings].map(column);
  const names = [x, y, ...(DATA.metrics[x].interval ?? []), ...(DATA.metrics[y].interval ?? [])];
  const groups = new Map();
  for (const row of known) {
    const key = keys.map((values) => values[row]).join('\u0000');
    if (!groups.has(key)) groups.set(key, { rows: [], runs: new Map(), key });
    const group = groups.get(key);
    group.rows.push(row);
    const run = value('run_id', row);
    if (group.runs.has(run)) group.runs.get(run).push(row);
    else group.runs.set(run, [row]);
  }
  const found = [...groups.values()];
  for (const group of found) {
    // Only times with the status "ok" may enter a front; the others count only where there is no such time.
    const status = (row) => (isTimed(x, y) ? value('timing_status', row) ?? 'ok' : 'ok');
    const usable = group.rows.filter((row) => status(row) === 'ok');
    if (usable.length) {
      group.rows = usable;
      for (const [run, part] of group.runs) {
        const kept = part.filter((row) => status(row) === 'ok');
        if (kept.length) group.runs.set(run, kept);
        else group.runs.delete(run);
      }
    }
    group.status = status(group.rows[0]);
    group.invalid = !usable.length;
    const [first] = group.rows;
    group.first = first;
    group.label = value('label', first);
    group.look = value('look', first);
    group.setting = varying.map((name) => text(name, value(name, first))).join(' · ');
    group.n = group.runs.size;
    for (const name of names) {
      const runs = [...group.runs.values()].map((part) => part.map((row) => value(name, row)).filter((item) => item !== null));
      const means = runs.filter((part) => part.length).map(mean);
      group[name] = means.length ? mean(means) : null;
      group[name + ':sd'] = deviation(means);
    }
  }
  return { found, known };
}

function interval(group, name) {
  const ends = DATA.metrics[name].interval;
  if (ends && group[ends[0]] !== null && group[ends[1]] !== null) return [group[ends[0]], group[ends[1]]];
  const sd = group[name + ':sd'];
  return sd !== null && sd > 1e-6 * Math.abs(group[name]) ? [group[name] - sd, group[name] + sd] : null;
}

// Whether no two configurations are shown to differ in y, by the tests of rhobench.results.with_uncertainty. Where the page
// does not have them, as with a filter by seed: all intervals overlap, and no paired test of single points says otherwise.
function nothingDiffers(groups, y) {
  if (groups.length < 2) return false;
  const known = y === DATA.paired.metric ? configurationTests(groups) : null;
  if (known) return !known.some((p) => p * known.length < 0.05);
  const ends = groups.map((group) => interval(group, y) ?? [group[y], group[y]]);
  const highestLow = ends.reduce((most, [low]) => Math.max(most, low), -Infinity);
  const lowestHigh = ends.reduce((least, [, high]) => Math.min(least, high), Infinity);
  if (highestLow > lowestHigh) return false;
  if (y !== DATA.paired.metric || groups.length > DATA.paired.points.length) return true;
  const rows = groups.map((group) => group.rows.find((row) => tested.has(artifact(row)))).filter((row) => row !== undefined);
  const found = rows.flatMap((row, i) => rows.slice(i + 1).map((other) => pairedTest(row, other))).filter(Boolean);
  return !found.some(({ p }) => p * found.length < 0.05);
}

// Marks the members of the front, and those whose interval of y reaches it. Where nothing differs, there is no front.
function markFront(groups, x, y) {
  const [sx, sy] = [x, y].map((name) => (DATA.metrics[name].better === 'lower' ? 1 : -1));
  const cost = (group) => sx * group[x];
  const gain = (group) => -sy * group[y];
  const valid = groups.filter((group) => !group.invalid);
  const sorted = [...valid].sort((a, b) => cost(a) - cost(b) || gain(b) - gain(a));
  let best = -Infinity;
  for (let i = 0; i < sorted.length; ) {
    let end = i;
    while (end < sorted.length && cost(sorted[end]) === cost(sorted[i])) end += 1;
    const top = gain(sorted[i]);
    for (; i < end; i += 1) {
      const group = sorted[i];
      group.front = gain(group) === top && top > best;
      const ends = interval(group, y);
      group.near = !group.front && ends !== null && Math.max(...ends.map((number) => -sy * number)) >= Math.max(best, top);
    }
    best = Math.max(best, top);
  }
  const flat = nothingDiffers(valid, y);
  if (flat) for (const group of valid) group.front = group.near = false;
  return flat;
}

function hoverText(group, x, y) {
  const row = group.first;
  const lines = [`<b>${escaped(group.label)}</b>`, escaped([DATA.looks[group.look].name, group.setting].filter(Boolean).join(' · '))];
  for (const name of [y, x]) {
    const ends = interval(group, name);
    const range = ends ? ` [${formatMetric(name, ends[0])} to ${formatMetric(name, ends[1])}]` : '';
    lines.push(`${escaped(DATA.metrics[name].title)} <b>${formatMetric(name, group[name])}</b>${range}`);
  }
  const shown = new Set(['rho', 'rho_infer', 'model', 'backbone', 'seed', 'status']);
  const settings = DATA.filters.filter((name) => !shown.has(name)).slice(0, 10);
  for (const name of settings) lines.push(`${escaped(label(name))} ${escaped(format(name, value(name, row), row)).slice(0, 60)}`);
  if (group.invalid) lines.push(`the timing is ${group.status.replace('_', ' ')} and not on a front`);
  if (group.near) lines.push('within the noise of the front');
  lines.push(`n = ${group.n} seed${group.n > 1 ? 's' : ''}`);
  return lines.join('<br>');
}

function bars(groups, name, color) {
  const ends = groups.map((group) => interval(group, name));
  if (!ends.some(Boolean)) return undefined;
  const { scale } = DATA.metrics[name];
  const side = (i) => groups.map((group, k) => (ends[k] ? Math.abs(ends[k][i] - group[name]) * scale : 0));
  return { type: 'data', symmetric: false, array: side(1), arrayminus: side(0), thickness: 1.3, width: 4, color };
}

function markers(groups, x, y, kind, total, flat) {
  const look = DATA.looks[groups[0].look];
  const color = themed(look.color);
  const onFront = kind === 'front';
  const withBars = onFront || total <= 30; // those of few configurations show how far they overlap
  const [sx, sy] = [DATA.metrics[x].scale, DATA.metrics[y].scale];
  const settings = [...new Set(groups.map((group) => group.setting))];
  return {
    type: !onFront && total > MANY ? 'scattergl' : 'scatter',
    mode: onFront || total <= 60 ? 'markers+text' : 'markers',
    x: groups.map((group) => group[x] * sx),
    y: groups.map((group) => group[y] * sy),
    // Texts follow when the axes are known: see placeLabels. Where all are empty at first, Plotly shows no later ones.
    text: onFront || total <= 60 ? groups.map(() => ' ') : undefined,
    textfont: { size: 12, color: themed('#5b6676') },
    cliponaxis: false,
    marker: {
      color,
      symbol: groups.map((group) => (group.invalid ? 'x-thin-open' : look.symbol + (group.near ? '-open' : ''))),
      size: onFront ? 12 : groups.map((group) => (group.near ? 11 : 8)),
      opacity: onFront || flat ? 1 : groups.map((group) => (group.near ? 0.95 : total > MANY ? 0.35 : 0.5)),
      line: { width: onFront ? 1.5 : groups.map((group) => (group.near || group.invalid ? 1.5 : 0)), color: onFront ? themed('#ffffff') : color },
    },
    error_x: onFront ? bars(groups, x, color) : undefined,
    error_y: withBars ? bars(groups, y, onFront || flat ? color : color + FAINT) : undefined,
    customdata: groups.map((group) => [group.label, value('run_id', group.first)]),
    hovertext: groups.map((group) => hoverText(group, x, y)),
    hovertemplate: '%{hovertext}<extra></extra>',
    name: escaped([look.name, ...(settings.length === 1 ? settings : [])].filter(Boolean).join(' · ')),
    legendgroup: groups[0].look + groups[0].setting,
    meta: kind,
  };
}

function frontLine(groups, x, y) {
  const sorted = [...groups].sort((a, b) => a[x] - b[x]);
  return {
    type: 'scatter',
    mode: 'lines',
    x: sorted.map((group) => group[x] * DATA.metrics[x].scale),
    y: sorted.map((group) => group[y] * DATA.metrics[y].scale),
    // With a budget between two configurations, the cheaper one is the best that fits.
    line: { color: themed('#5b6676'), width: 1.6, shape: DATA.metrics[x].better === 'lower' ? 'hv' : 'vh' },
    name: groups[0].setting ? `Front · ${escaped(groups[0].setting)}` : 'Pareto front',
    hoverinfo: 'skip',
    meta: 'line',
  };
}

function publishedTrace(x, y) {
  const rows = PUBLISHED.filter((row) => row[x] !== undefined && row[y] !== undefined);
  if (!rows.length) return [];
  const at = (name) => rows.map((row) => row[name] * DATA.metrics[name].scale);
  const names = rows.map((row) => escaped(row.name));
  return [{
    type: 'scatter', mode: 'markers', x: at(x), y: at(y), hovertext: names, name: 'Published',
    marker: { symbol: 'x-thin-open', size: 8, color: themed('#5b6676'), line: { width: 1.5 } },
    hovertemplate: '%{hovertext}<br>%{y:.1f} at %{x}<extra>published</extra>', meta: 'published',
  }];
}

const CORNERS = {
  lowerhigher: ['↖ better', 0], higherhigher: ['better ↗', 1], lowerlower: ['↙ better', 0], higherlower: ['better ↘', 1],
};

function corner(x, y) {
  const [words, place] = CORNERS[DATA.metrics[x].better + DATA.metrics[y].better];
  return {
    text: words, x: place, y: 1, xref: 'paper', yref: 'paper', xanchor: place ? 'right' : 'left', yanchor: 'bottom',
    showarrow: false, font: { size: 12, color: themed('#5b6676') },
  };
}

function summary(found, known, x, y, flat) {
  const count = (test) => found.filter(test).length;
  if (!found.length) return 'no run has both values';
  const parts = [flat ? `no front: none of the ${counted(found.length, 'configuration')} is shown to differ from another in ${DATA.metrics[y].label}` : `${count((g) => g.front)} of ${counted(found.length, 'configuration')} on the front`];
  if (count((g) => g.near)) parts.push(`${count((g) => g.near)} more (hollow) within its noise`);
  const seeds = found.map((group) => group.n).sort((a, b) => a - b);
  parts.push(seeds[0] === seeds.at(-1) ? `n = ${counted(seeds[0], 'seed')}` : `n = ${seeds[0]} to ${seeds.at(-1)} seeds`);
  const bar = (name) => DATA.metrics[name].interval ? `${DATA.metrics[name].noun} ${INTERVALS[name]}` : `${DATA.metrics[name].label} ± sd over seeds`;
  const shown = [y, x].filter((name) => found.some((group) => interval(group, name)));
  if (shown.length) parts.push('bars: ' + shown.map(bar).join(', '));
  const settings = new Set(found.map((group) => group.setting)).size;
  if (settings > 1) parts.push(`${settings} settings that cannot be compared, one front each`);
  if (count((g) => g.invalid)) parts.push(`${count((g) => g.invalid)} of ${found.length} on no front because of their timing (×)`);
  const states = {};
  for (const run of new Set(visible.map((row) => value('run_id', row)))) {
    const status = value('status', rowsOfRun.get(run)[0]);
    if (ended.has(status)) states[status] = (states[status] ?? 0) + 1;
  }
  for (const [status, runs] of Object.entries(states)) parts.push(`${runs} ${status} run${runs > 1 ? 's' : ''} not shown`);
  return parts.join('; ');
}

async function drawExplorer(name) {
  const plot = $('#plot-' + name);
  const { x, y } = axesOf[name];
  if (x === undefined) return drawFigure(name); // an empty store
  const { found, known } = configurations(visible, x, y);
  const settings = [...new Set(found.map((group) => group.setting))].sort();
  let flat = false;
  for (const setting of settings) flat = markFront(found.filter((group) => group.setting === setting), x, y) || flat;
  const data = [];
  for (const setting of settings) {
    const own = found.filter((group) => group.setting === setting);
    for (const look of [...new Set(own.map((group) => group.look))].sort((a, b) => a - b)) {
      const series = own.filter((group) => group.look === look);
      const front = series.filter((group) => group.front);
      const others = series.filter((group) => !group.front);
      if (others.length && !view.front) data.push({ ...markers(others, x, y, 'dominated', found.length, flat), showlegend: !front.length });
      if (front.length) data.push({ ...markers(front, x, y, 'front', found.length, flat), showlegend: true });
    }
    const line = own.filter((group) => group.front);
    if (line.length) data.push(frontLine(line, x, y));
  }
  if (y in DATA.metrics && DATA.metrics[y].accuracy) data.push(...publishedTrace(x, y));
  const layout = fitted(themedFigure({ layout: FIGURES[name].layout }).layout);
  layout.xaxis = { ...layout.xaxis, visible: true, type: view.log ? 'log' : 'linear', title: { ...layout.xaxis.title, text: DATA.metrics[x].title } };
  layout.yaxis = { ...layout.yaxis, visible: true, title: { ...layout.yaxis.title, text: DATA.metrics[y].title } };
  layout.annotations = found.length ? [corner(x, y)] : [{ text: 'No run has both values.', x: 0.5, y: 0.5, xref: 'paper', yref: 'paper', showarrow: false }];
  layout.shapes = budgetLine(name, found);
  layout.uirevision = `${x} ${y} ${view.log}`; // keeps the zoom while filters change
  $(`#title-${name}`).textContent = `${DATA.metrics[y].label} against ${DATA.metrics[x].noun}`;
  $(`#summary-${name}`).textContent = summary(found, known, x, y, flat);
  const first = !plot.data;
  plot.style.height = layout.height + 'px';
  await Plotly.react(plot, data, layout, OPTIONS);
  await placeLabels(plot);
  if (first) {
    plot.on('plotly_click', ({ points }) => openRun(points[0].customdata?.at(-1)));
    plot.on('plotly_relayout', () => inTurn(() => placeLabels(plot)));
  }
}

// ---- budget

function budgetLine(name, found) {
  const { x, y, budget } = axesOf[name];
  const output = $(`#budget-${name} output`);
  const slider = $(`#budget-${name} input`);
  const costs = found.map((group) => group[x]);
  const [low, high] = [Math.min(...costs), Math.max(...costs)];
  const lower = DATA.metrics[x].better === 'lower';
  slider.disabled = found.length < 2 || low === high;
  if (slider.disabled || budget === null) {
    slider.value = lower ? 1000 : 0;
    slider.setAttribute('aria-valuetext', 'no limit');
    output.textContent = 'no limit';
    return [];
  }
  const share = budget / 1000;
  const limit = view.log && low > 0 ? low * (high / low) ** share : low + (high - low) * share;
  const fits = found.filter((group) => !group.invalid && (lower ? group[x] <= limit * (1 + 1e-9) : group[x] >= limit * (1 - 1e-9)));
  const sign = DATA.metrics[y].better === 'higher' ? 1 : -1;
  const best = fits.reduce((top, group) => (top === null || sign * group[y] > sign * top[y] ? group : top), null);
  const words = `${lower ? '≤' : '≥'} ${formatMetric(x, limit)} ${DATA.metrics[x].noun}`;
  output.textContent = best ? `${words}: best ${DATA.metrics[y].label} ${formatMetric(y, best[y])} (${best.label}, ${DATA.looks[best.look].name})` : `${words}: nothing fits`;
  slider.value = budget;
  slider.setAttribute('aria-valuetext', output.textContent);
  const at = limit * DATA.metrics[x].scale;
  return [{ type: 'line', x0: at, x1: at, y0: 0, y1: 1, yref: 'paper', line: { color: themed('#1f77c9'), width: 1.5, dash: 'dot' } }];
}

function setUpExplorer(name, [x, y]) {
  const known = Object.keys(DATA.metrics);
  const saved = address();
  $(`#tools-${name}`).hidden = known.length === 0;
  axesOf[name] = { x: known.includes(x) ? x : known[0], y: known.includes(y) ? y : known[0], budget: null };
  for (const axis of ['x', 'y']) {
    const wanted = saved.get(`${name}.${axis}`);
    if (known.includes(wanted)) axesOf[name][axis] = wanted;
    const select = $(`#${axis}-${name}`);
    for (const metric of known) select.append(element('option', DATA.metrics[metric].title, [], { value: metric }));
    select.value = axesOf[name][axis];
    select.onchange = () => {
      axesOf[name][axis] = select.value;
      axesOf[name].budget = null;
      remember({ [`${name}.${axis}`]: select.value, [`${name}.budget`]: null });
      inTurn(() => drawExplorer(name));
    };
  }
  if (saved.has(`${name}.budget`)) axesOf[name].budget = Math.min(1000, Math.max(0, +saved.get(`${name}.budget`) || 0));
  $(`#budget-${name} input`).oninput = (event) => {
    const end = DATA.metrics[axesOf[name].x].better === 'lower' ? 1000 : 0;
    axesOf[name].budget = +event.target.value === end ? null : +event.target.value;
    remember({ [`${name}.budget`]: axesOf[name].budget });
    inTurn(() => drawExplorer(name));
  };
}

// ---- figures that were built beforehand: theme, width of the window, filters

const view = { log: false, front: false, dark: matchMedia('(prefers-color-scheme: dark)').matches };

// No button that offers to send a figure anywhere.
const OPTIONS = {
  responsive: true,
  displaylogo: false,
  displayModeBar: 'hover',
  modeBarButtons: [['zoom2d', 'pan2d', 'resetScale2d']],
  plotlyServerURL: '',
};

const themed = (color) => (view.dark ? DARK[color] ?? color : color);

function themedFigure(figure) {
  let text = JSON.stringify(figure);
  if (view.dark) for (const [light, dark] of Object.entries(DARK)) text = text.replaceAll(light, dark);
  return JSON.parse(text);
}

function fitted(layout) {
  if (narrow.matches) {
    layout.height = Math.min(layout.height, 380);
    layout.margin = { ...layout.margin, l: 48, r: 16 };
    layout.font.size = 12;
    if (layout.xaxis) layout.xaxis.nticks = 5;
  }
  return layout;
}

const runOfPoint = (trace, index) => trace.meta?.run ?? trace.customdata?.[index]?.at?.(-1);
const canBeFiltered = (figure) => figure.data.some((trace) => trace.meta?.run || Array.isArray(trace.customdata?.[0]));

// The points of the visible runs; traces that do not name their runs stay.
function filtered(trace) {
  if (visibleRuns === null) return trace;
  if (trace.meta?.run) return visibleRuns.has(trace.meta.run) ? trace : null;
  if (!Array.isArray(trace.customdata?.[0])) return trace;
  const kept = trace.customdata.map((data) => visibleRuns.has(data.at(-1)));
  if (!kept.some(Boolean)) return null;
  const part = (list) => (Array.isArray(list) && list.length === kept.length ? list.filter((_, i) => kept[i]) : list);
  const result = { ...trace, x: part(trace.x), y: part(trace.y), customdata: part(trace.customdata) };
  for (const bars of ['error_x', 'error_y'])
    if (trace[bars]) result[bars] = { ...trace[bars], array: part(trace[bars].array), arrayminus: part(trace[bars].arrayminus) };
  return result;
}

async function drawFigure(name) {
  const plot = $('#plot-' + name);
  const figure = themedFigure(FIGURES[name]);
  // On a phone the axes of parallel coordinates would lie on top of each other.
  const tooWide = narrow.matches && figure.data.some((trace) => trace.type === 'parcoords');
  $(`#plot-${name} ~ .narrow`).hidden = !tooWide;
  plot.hidden = tooWide;
  if (tooWide) return;
  const data = figure.data.map(filtered).filter(Boolean);
  $(`#plot-${name} ~ .unfiltered`).hidden = visibleRuns === null || canBeFiltered(figure);
  if (narrow.matches) for (const trace of data) if (trace.colorbar) trace.showscale = false;
  const first = !plot.data;
  const layout = fitted(figure.layout);
  plot.style.height = layout.height + 'px'; // a plot without a height may collapse or overflow its card
  await Plotly.react(plot, data, layout, OPTIONS);
  if (first) plot.on('plotly_click', ({ points }) => openRun(runOfPoint(points[0].data, points[0].pointIndex)));
}

// ---- downloads: figures as SVG, the configurations of a figure of two metrics as a LaTeX table

async function saveSvg(name) {
  await Plotly.downloadImage($('#plot-' + name), { format: 'svg', filename: `rhobench-${name}`, width: 900, height: 560 });
}

const LATEX = {
  '&': '\\&', '%': '\\%', '_': '\\_', '#': '\\#', $: '\\$', '{': '\\{', '}': '\\}', '\\': '\\textbackslash{}', '~': '\\textasciitilde{}',
  '^': '\\textasciicircum{}', ρ: '$\\rho$', '×': '$\\times$', '→': '$\\rightarrow$', '−': '$-$', '±': '$\\pm$',
};

const latexText = (text) => [...String(text)].map((character) => LATEX[character] ?? character).join('');

// In order of increasing cost, as `rhobench export --table latex` writes it, of what passes the filters
function saveLatex(name) {
  const { x, y } = axesOf[name];
  const { found } = configurations(visible, x, y);
  const several = new Set(found.map((group) => `${group.look} ${group.setting}`)).size > 1;
  for (const setting of new Set(found.map((group) => group.setting))) markFront(found.filter((group) => group.setting === setting), x, y);
  const rows = [...found].sort((a, b) => a[x] - b[x]).map((group) => {
    const spread = group.n > 1 ? ` ± ${formatMetric(y, group[y + ':sd'])}` : '';
    const model = several ? [[DATA.looks[group.look].name, group.setting].filter(Boolean).join(' · ')] : [];
    return [group.front ? 'yes' : '', group.label, ...model, formatMetric(x, group[x]), formatMetric(y, group[y]) + spread, group.n];
  });
  const head = ['front', 'configuration', ...(several ? ['model'] : []), DATA.metrics[x].title, DATA.metrics[y].title, 'seeds'];
  const [header, ...body] = [head, ...rows].map((cells) => cells.map(latexText).join(' & ') + ' \\\\');
  const caption = latexText(`${DATA.metrics[y].label} against ${DATA.metrics[x].noun}`);
  save(`rhobench-${name}.tex`, 'application/x-tex', [
    '\\begin{table}', `\\caption{${caption}}`, `\\begin{tabular}{${several ? 'lll' : 'll'}rrr}`, '\\toprule', header, '\\midrule', ...body,
    '\\bottomrule', '\\end{tabular}', '\\end{table}', '',
  ].join('\n'));
}

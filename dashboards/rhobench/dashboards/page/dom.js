// ---- elements and the address. Text of records is untrusted: it becomes text nodes, never HTML.

const $ = (selector) => document.querySelector(selector);
const narrow = matchMedia('(max-width: 600px)');

function element(tag, text, children = [], attributes = {}) {
  const node = document.createElement(tag);
  if (text !== '' && text !== undefined && text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node[name] = value;
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const counted = (number, noun) => `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : 's'}`;

// Plotly interprets the text of labels and hovers as HTML.
const escaped = (text) =>
  String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

const address = () => new URLSearchParams(location.hash.slice(1));

// The view, the filters and the open run are part of the address, so that a link reproduces them.
function remember(changes) {
  const parameters = address();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === '') parameters.delete(name);
    else parameters.set(name, value);
  }
  history.replaceState(null, '', '#' + parameters);
}

function save(name, type, content) {
  const link = element('a', '', [], { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

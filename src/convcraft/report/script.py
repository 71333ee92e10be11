"""What a page does when it is touched: sorts tables, opens the cells of the confusion matrix. Without it the page is
whole, only still.

It reads JSON that `html.data_block` wrote and makes text of it, never markup. It is a constant: the page's policy names
its hash and runs nothing else.
"""

SCRIPT = r"""
(() => {
'use strict';
const make = (tag, words, kind) => {
  const node = document.createElement(tag);
  if (words !== undefined) node.textContent = words;
  if (kind) node.className = kind;
  return node;
};

// Tables whose heads sort. Figures by their first number, names as people sort them; missing figures come last.
const figure = words => {
  const found = words.replace(/,/g, '').replace('\u2212', '-').match(/^[<+]?\s*(-?\d+(\.\d+)?)/);
  return found ? Number(found[1]) : NaN;
};
const order = new Intl.Collator(undefined, {numeric: true}).compare;
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make('button', head.textContent, 'sort');
    button.type = 'button';
    head.replaceChildren(button);
    button.addEventListener('click', () => {
      const numeric = head.classList.contains('number');
      const before = head.getAttribute('aria-sort');
      const up = before ? before === 'descending' : true;
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const rows = [...table.tBodies[0].rows].map(row => {
        const words = row.cells[column].textContent.trim();
        return {row, words, value: numeric ? figure(words) : 0};
      });
      rows.sort((a, b) => {
        if (!numeric) return (up ? 1 : -1) * order(a.words, b.words);
        if (isNaN(a.value) || isNaN(b.value)) return isNaN(a.value) - isNaN(b.value);
        return (up ? 1 : -1) * (a.value - b.value);
      });
      table.tBodies[0].append(...rows.map(entry => entry.row));
    });
  });
}

// The cells of the confusion matrix: a cell is [true, called, images, [[file, confidence, picture], ...]].
const block = document.getElementById('cells-data');
if (!block) return;
const panel = document.getElementById('cell');
let data = null, cells = null, opener = null;
const load = () => {
  if (data) return;
  data = JSON.parse(block.textContent);
  cells = new Map(data.cells.map(cell => [cell[0] + '-' + cell[1], cell]));
};
const source = picture => {
  if (typeof picture === 'string') return document.getElementById(picture).src;
  const file = data.pictures[picture];
  return 'data:image/' + (file.startsWith('/9j/') ? 'jpeg' : 'png') + ';base64,' + file;
};
const title = (target, label) => target === label
  ? data.classes[target] + ', called right'
  : 'is ' + data.classes[target] + ', called ' + data.classes[label];
const unmark = () => document.querySelectorAll('[data-cell].open').forEach(cell => cell.classList.remove('open'));
const close = () => {
  panel.hidden = true;
  unmark();
  if (opener && opener.isConnected) opener.focus();
};
const open = button => {
  load();
  const [target, label, images, entries] = cells.get(button.dataset.cell);
  const shown = entries.filter(entry => entry[2] !== null), named = entries.filter(entry => entry[2] === null);
  const grid = make('ul', undefined, 'pictures');
  for (const [file, confidence, picture] of shown) {
    const item = make('li'), image = make('img');
    image.src = source(picture);
    image.alt = file;
    image.loading = 'lazy';
    if (data.enlarge) image.className = 'pixels';
    item.append(image, make('div', confidence + ' % sure'), make('div', file, 'name'));
    grid.append(item);
  }
  const head = make('h3', title(target, label) + ' \u00b7 ' + images + (images === 1 ? ' image' : ' images'));
  const shut = make('button', 'Close', 'plain');
  shut.type = 'button';
  shut.addEventListener('click', close);
  const top = make('div', undefined, 'top');
  top.append(head, shut);
  panel.replaceChildren(top);
  if (shown.length) panel.append(grid);
  if (named.length) {
    const words = named.map(entry => entry[0] + ' (' + entry[1] + ' % sure)').join(', ');
    panel.append(make('p', (shown.length ? 'Without a picture here: ' : '') + words, 'note names'));
  }
  const left = images - entries.length;
  if (left > 0) panel.append(make('p', 'and ' + left + ' more', 'note'));
  unmark();
  opener = button;
  button.classList.add('open');
  panel.hidden = false;
  panel.focus({preventScroll: true});
  panel.scrollIntoView({block: 'nearest'});
};
document.addEventListener('click', event => {
  const button = event.target.closest('[data-cell]');
  if (button) open(button);
});
document.addEventListener('keydown', event => {
  if (event.key === 'Escape' && !panel.hidden) close();
});
const steps = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
const matrix = document.querySelector('table.matrix');
if (matrix) matrix.addEventListener('keydown', event => {
  const step = steps[event.key], cell = event.target.closest('td');
  if (!step || !cell) return;
  event.preventDefault();
  let row = cell.parentElement.rowIndex, column = cell.cellIndex;
  for (;;) {  // to the next cell that holds images
    row += step[0];
    column += step[1];
    const next = matrix.rows[row] && matrix.rows[row].cells[column];
    const button = next && next.querySelector('button');
    if (!next) return;
    if (button) return button.focus();
  }
});

// Many classes: the list of mistakes grows when asked, and shows the cells of the classes that are looked for.
const list = document.getElementById('pairs');
if (!list) return;
const body = list.querySelector('tbody'), more = document.getElementById('pairs-more');
const wanted = document.getElementById('pairs-wanted'), first = body.rows.length;
const AT_ONCE = 200;
let found = null;
const row = cell => {
  const line = make('tr'), name = make('th', data.classes[cell[0]]), times = make('td', undefined, 'number');
  const button = make('button', cell[2], 'plain');
  name.scope = 'row';
  button.type = 'button';
  button.dataset.cell = cell[0] + '-' + cell[1];
  times.append(button);
  const right = cell[0] === cell[1];
  line.append(name, make('td', right ? 'right' : data.classes[cell[1]], right ? 'right' : ''), times,
    make('td', data.support[cell[0]], 'number'));
  return line;
};
const grow = (from, to) => {
  body.append(...found.slice(from, to).map(row));
  more.hidden = to >= found.length;
  more.textContent = 'Show ' + Math.min(AT_ONCE, found.length - to) + ' more of ' + found.length;
};
const look = () => {
  load();
  const words = wanted.value.trim().toLowerCase();
  const named = data.classes.map(name => words && name.toLowerCase().includes(words));
  found = data.cells.filter(cell => words ? named[cell[0]] || named[cell[1]] : cell[0] !== cell[1]);
  found.sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
  body.replaceChildren();
  grow(0, words ? AT_ONCE : first);
};
wanted.parentElement.hidden = false;
more.hidden = false;
wanted.addEventListener('input', look);
more.addEventListener('click', () => {
  if (!found) look();
  grow(body.rows.length, body.rows.length + AT_ONCE);
});
})();
"""

// A table of any length: only the rows in sight are elements, and they are used again.

import { h } from "./dom.js";

const ROW = 32;
const SPARE = 6;

/**
 * columns: {id, title, width, middle and narrow (its width on smaller screens), wide (not on narrow ones), sort(row), make(cell) -> update(row)}
 * href(row): where a row leads; open(row): shows one that leads nowhere.
 */
export class Table {
  #columns;
  #href;
  #open;
  #key;
  #rows = [];
  #shown = [];
  #pool = [];
  #sort;
  /** The key of the selected row: its place changes. */
  #selected = null;
  #scroller;
  #body;
  #head;
  #empty;

  constructor({ columns, href, open, sort, key = (row) => row.id, empty = "nothing here" }) {
    this.#columns = columns;
    this.#href = href;
    this.#open = open;
    this.#key = key;
    this.#sort = sort;
    this.#head = h("div.thead", { role: "row" }, columns.map((column) => this.#heading(column)));
    this.#body = h("div.tbody", { role: "rowgroup", onpointerover: (event) => tellWhole(event.target.closest(".td")) });
    this.#empty = h("p.empty", {}, empty);
    this.#scroller = h("div.scroller", { tabindex: "-1", onscroll: () => this.#draw() }, this.#body);
    this.element = h("div.table", { role: "table" }, this.#head, this.#scroller, this.#empty);
    this.element.style.setProperty("--columns", columns.filter((c) => !c.wide).map((c) => c.narrow ?? c.width).join(" "));
    this.element.style.setProperty("--columns-middle", columns.map((c) => c.middle ?? c.width).join(" "));
    this.element.style.setProperty("--columns-wide", columns.map((c) => c.width).join(" "));
    new ResizeObserver(() => this.#draw()).observe(this.#scroller);
  }

  #heading(column) {
    const turn = () => {
      const same = this.#sort?.id === column.id;
      this.#sort = { id: column.id, down: same ? !this.#sort.down : Boolean(column.down) };
      this.set(this.#rows);
    };
    const classes = `th.${column.id}${column.wide ? ".wide" : ""}${column.number ? ".number" : ""}`;
    return column.sort
      ? h(`button.${classes}`, { role: "columnheader", onclick: turn, "data-column": column.id }, column.title)
      : h(`span.${classes}`, { role: "columnheader" }, column.title);
  }

  /** Shows other rows; they are sorted here, unless the table is not sorted. */
  set(rows) {
    this.#rows = rows;
    const column = this.#sort && this.#columns.find((each) => each.id === this.#sort.id);
    this.#shown = column ? sorted(rows, column.sort, this.#sort.down, this.#key) : rows;
    for (const heading of this.#head.children) {
      const order = this.#sort && heading.dataset.column === this.#sort.id ? (this.#sort.down ? "descending" : "ascending") : null;
      if (order) heading.setAttribute("aria-sort", order);
      else heading.removeAttribute("aria-sort");
    }
    this.#empty.hidden = rows.length > 0;
    this.#body.style.height = `${this.#shown.length * ROW}px`;
    this.#draw();
  }

  /** Keeps the end in sight if it was. */
  get atEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollTop + clientHeight >= scrollHeight - ROW;
  }

  toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#draw();
  }

  move(step) {
    if (!this.#shown.length) return;
    const at = this.#shown.findIndex((row) => this.#key(row) === this.#selected);
    const next = Math.max(0, Math.min(this.#shown.length - 1, at + step));
    this.#selected = this.#key(this.#shown[next]);
    const top = next * ROW;
    const { scrollTop, clientHeight } = this.#scroller;
    if (top < scrollTop) this.#scroller.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.#scroller.scrollTop = top + ROW - clientHeight;
    this.#draw();
  }

  /** Where the selected row leads; one that leads nowhere is shown here. */
  chosen() {
    const row = this.#shown.find((each) => this.#key(each) === this.#selected);
    const href = row && this.#href?.(row);
    if (row && !href) this.#open?.(row);
    return href;
  }

  #draw() {
    const { scrollTop, clientHeight } = this.#scroller;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - SPARE);
    const count = Math.min(this.#shown.length - first, Math.ceil(clientHeight / ROW) + 2 * SPARE);
    while (this.#pool.length < count) this.#pool.push(this.#make());
    this.#pool.forEach((slot, index) => {
      const row = index < count ? this.#shown[first + index] : undefined;
      slot.element.hidden = !row;
      if (!row) return;
      slot.element.style.transform = `translateY(${(first + index) * ROW}px)`;
      slot.element.classList.toggle("selected", this.#key(row) === this.#selected);
      const href = this.#href?.(row);
      if (href) slot.element.setAttribute("href", href);
      else slot.element.removeAttribute("href");
      slot.row = row;
      slot.updates.forEach((update) => update(row));
    });
  }

  #make() {
    const cells = this.#columns.map((column) =>
      h(`span.td.${column.id}${column.wide ? ".wide" : ""}${column.number ? ".number" : ""}`, { role: "cell" }),
    );
    const updates = this.#columns.map((column, index) => column.make(cells[index]));
    const slot = { updates, row: null };
    slot.element = h(this.#href ? "a.tr" : "div.tr", { role: "row", onclick: () => this.#href?.(slot.row) || this.#open?.(slot.row) }, cells);
    this.#body.append(slot.element);
    return slot;
  }
}

/** What a cell has no room for is its title. */
function tellWhole(cell) {
  if (!cell) return;
  if (cell.scrollWidth > cell.clientWidth) cell.title = cell.textContent;
  else cell.removeAttribute("title");
}

function sorted(rows, value, down, key) {
  const keyed = rows.map((row) => [value(row), key(row), row]);
  const sign = down ? -1 : 1;
  keyed.sort((a, b) => {
    if (a[0] < b[0]) return -sign;
    if (a[0] > b[0]) return sign;
    return a[1] < b[1] ? -1 : 1;
  });
  return keyed.map((each) => each[2]);
}

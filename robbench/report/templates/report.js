"use strict";

// The number that a cell begins with, behind ">", "<", "×" or "±"; text where there is none.
function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const found = text.replace(/,(?=\d{3})/g, "").match(/^[<>×+\s]*(-?\d+(?:\.\d+)?)/);
  return found ? Number(found[1]) : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return 1; // what has no figure comes last in descending order
  if (typeof b === "number") return -1;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    head.title = "sort";
    const sort = () => {
      const ascending = column === 0 ? head.ariaSort !== "ascending" : head.ariaSort === "descending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const sign = ascending ? 1 : -1;
      const rows = [...body.rows];
      rows.sort((one, other) => sign * compare(valueOf(one, column), valueOf(other, column)));
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort();
    });
  });
}

// A field above a table of more than eight rows: only rows whose name holds every word stay.
function filterable(table) {
  if (table.tBodies[0].rows.length <= 8) return;
  const field = document.createElement("input");
  field.type = "search";
  field.className = "filter";
  field.placeholder = "show rows with …";
  field.setAttribute("aria-label", "show rows with");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of table.tBodies[0].rows) {
      const text = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  table.parentElement.before(field);
}

// The value of what is under the pointer or the finger, from its <title>.
function hover() {
  const tip = document.getElementById("tip");
  for (const title of document.querySelectorAll("svg .hover > title")) {
    title.parentElement.dataset.tip = title.textContent;
    title.parentElement.setAttribute("aria-label", title.textContent);
    title.remove(); // or the browser would show it a second time
  }
  let shown = null;
  const hide = () => {
    if (shown) shown.classList.remove("on");
    shown = null;
    tip.hidden = true;
  };
  const show = (event) => {
    const part = event.target.closest ? event.target.closest(".hover") : null;
    if (part !== shown) hide();
    if (!part) return;
    shown = part;
    part.classList.add("on");
    tip.textContent = part.dataset.tip;
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    const above = event.clientY - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 4 ? above : event.clientY + 18}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", hide, { passive: true });
  for (const name of document.querySelectorAll(".legend [data-line]")) {
    const lines = [...name.closest("figure").querySelectorAll(".hover")].filter((line) => line.dataset.tip === name.dataset.line);
    const mark = (on) => () => lines.forEach((line) => line.classList.toggle("on", on));
    name.addEventListener("pointerenter", mark(true));
    name.addEventListener("pointerleave", mark(false));
  }
}

// The most robust model within the limits that were typed in.
function limits(details) {
  const form = details.querySelector("form");
  const output = form.querySelector("output");
  const rows = [...details.querySelectorAll("tr[data-name]")];
  const update = () => {
    const least = Number(form.elements.accuracy.value) / 100;
    const most = form.elements.seconds.value === "" ? Infinity : Number(form.elements.seconds.value);
    let best = null;
    for (const row of rows) {
      const seconds = row.dataset.seconds === "" ? Infinity : Number(row.dataset.seconds);
      const within = Number(row.dataset.accuracy) >= least && seconds <= most && "eligible" in row.dataset;
      row.classList.toggle("outside", !within);
      row.classList.remove("best");
      const rank = (each) => Number(each.dataset.pstar) + 1e-6 * Number(each.dataset.accuracy);
      if (within && (best === null || rank(row) > rank(best))) best = row;
    }
    if (best) best.classList.add("best");
    output.textContent = best ? `most robust: ${best.dataset.name}` : "no model is within these limits";
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}

for (const table of document.querySelectorAll("table")) {
  sortable(table);
  filterable(table);
}
hover();
document.querySelectorAll(".candidates").forEach(limits);
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

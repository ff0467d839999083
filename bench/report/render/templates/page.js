"use strict";
// The page's own behaviour: sorting, filtering, recommendations, hints to scroll, the theme.
(() => {
  const root = document.documentElement;

  // Storage is refused to some pages (opened from a disk, private windows): the choice then lasts as long as the page.
  const stored = {
    get() { try { return localStorage.getItem("peft-ledger-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("peft-ledger-theme", value); } catch { /* see above */ } },
  };
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  const kept = stored.get();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored.set(root.dataset.theme);
    name();
  });
  system.addEventListener("change", name);
  name();

  const compare = (first, second) => {
    const numbers = [Number(first), Number(second)];
    return numbers.some(Number.isNaN) ? first.localeCompare(second) : numbers[0] - numbers[1];
  };
  const sort = (table, head) => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const key = (row) => row.cells[head.cellIndex].dataset.key;
    const rows = [...table.tBodies[0].rows].sort((first, second) => {
      const [a, b] = [key(first), key(second)];
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // missing: always last
      return direction * compare(a, b);
    });
    table.tBodies[0].append(...rows);
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const head of table.tHead.rows[0].cells) {
      const control = head.querySelector("button");
      control.disabled = false;
      control.addEventListener("click", () => sort(table, head));
    }
  }

  const boxes = document.querySelectorAll(".wide, .card, pre");
  const hint = () => { for (const box of boxes) box.classList.toggle("scrolls", box.scrollWidth > box.clientWidth + 1); };
  for (const image of document.images) image.addEventListener("load", hint);
  window.addEventListener("resize", hint);
  hint();

  const main = document.getElementById("main-table");
  const filter = document.getElementById("filter");
  if (main && filter) {
    const rows = [...main.tBodies[0].rows];
    const shown = document.getElementById("shown");
    const apply = () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    filter.closest("[hidden]").hidden = false;
    filter.addEventListener("input", apply);
    apply();
  }

  const needs = document.getElementById("needs");
  if (needs) {
    const buttons = [...needs.querySelectorAll("button")];
    const pick = (need) => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.need === need));
      for (const text of needs.querySelectorAll(".pick")) text.hidden = text.id !== `pick-${need}`;
      for (const row of document.querySelectorAll("tr[data-needs]")) {
        row.classList.toggle("picked", row.dataset.needs.split(" ").includes(need));
      }
    };
    for (const chosen of buttons) {
      chosen.addEventListener("click", () => {
        pick(chosen.getAttribute("aria-pressed") === "true" ? null : chosen.dataset.need);
      });
    }
    needs.classList.add("live");
    pick(null);
  }
})();

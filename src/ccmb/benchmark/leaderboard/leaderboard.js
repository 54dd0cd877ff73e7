"use strict";
(() => {
  const tables = [...document.querySelectorAll(".board")], filters = [...document.querySelectorAll(".filters select")];
  const show = () => {
    let shown = 0;
    for (const table of tables) {
      let here = 0;
      for (const row of table.tBodies[0].rows) {
        row.hidden = filters.some((filter) => filter.value && row.dataset[filter.name] !== filter.value);
        here += !row.hidden;
      }
      table.closest("section").hidden = !here;
      shown += here;
    }
    document.querySelector("#shown").textContent = shown;
  };
  const value = (row, column) => row.cells[column].dataset.value;
  const sort = (head) => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex, number = head.classList.contains("n");
    // Figures begin with the best, words with the first; another click turns them round.
    const now = head.getAttribute("aria-sort"), order = now ? (now === "descending" ? 1 : -1) : number ? -1 : 1;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
    const rows = [...body.rows].sort((first, second) => {
      const a = value(first, column), b = value(second, column);
      if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last either way
      return order * (number ? a - b : a.localeCompare(b, "zh"));
    });
    body.append(...rows);
  };
  for (const filter of filters) filter.addEventListener("change", show);
  for (const table of tables)
    for (const head of table.tHead.rows[0].cells) head.querySelector("button").addEventListener("click", () => sort(head));
  show();
})();

document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const heading = button.parentElement, row = heading.parentElement, at = [...row.children].indexOf(heading);
  const body = heading.closest("table").tBodies[0], upward = heading.getAttribute("aria-sort") === "descending";
  const value = (line) => line.children[at].textContent.trim();
  const number = (text) => Number.parseFloat(text.replace(/,/g, ""));
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)], [m, n] = [number(x), number(y)];
    if (Number.isNaN(m) !== Number.isNaN(n)) return Number.isNaN(m) ? 1 : -1;  // what has no value is last
    const greater = Number.isNaN(m) ? x.localeCompare(y) : m - n;
    return upward ? greater : -greater;
  };
  for (const other of row.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", upward ? "ascending" : "descending");
  body.append(...[...body.rows].sort(order));
}));

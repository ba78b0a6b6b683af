
const table = document.getElementById("runs"), [head, ...rows] = table.rows;
[...head.cells].forEach((cell, column) => {
  if (!cell.textContent) return;
  const button = document.createElement("button");
  button.append(...cell.childNodes);
  cell.append(button);
  let down = false;
  button.onclick = () => {
    const by = (row) => row.cells[column].dataset.by ?? row.cells[column].textContent.trim();
    const compare = (a, b) => by(a).localeCompare(by(b), undefined, { numeric: true });
    const number = (text) => (text === "" ? Infinity : Number(text));
    const numbers = rows.some((row) => "by" in row.cells[column].dataset);
    rows.sort(numbers ? (a, b) => (number(by(a)) > number(by(b))) - (number(by(a)) < number(by(b))) : compare);
    if (down) rows.reverse();
    down = !down;
    rows.forEach((row) => row.parentNode.append(row));
  };
});


const box = document.getElementById("search");
if (box) {
  let items = null;
  const folded = [...document.querySelectorAll("details.more")];
  const state = document.getElementById("found");
  const read = () => [...document.querySelectorAll(".flip")].map((item) => [item, item.textContent.toLowerCase()]);
  const search = () => {
    const wanted = box.value.trim().toLowerCase();
    items ??= read();
    let found = 0;
    for (const [item, text] of items) {
      const hidden = !text.includes(wanted);
      if (item.hidden !== hidden) item.hidden = hidden;
      if (!hidden) found += 1;
    }
    for (const part of folded) part.open = wanted !== "";
    state.textContent = wanted ? `${found} of ${items.length}` : "";
  };
  let waiting = 0;
  box.closest("form").hidden = false;
  box.closest("form").addEventListener("submit", (event) => event.preventDefault());
  box.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 120);
  });
}

const box = document.getElementById("search");
if (box) {
  const items = [...document.querySelectorAll(".flip")].map((item) => [item, item.textContent.toLowerCase()]);
  const folded = [...document.querySelectorAll("details.more")];
  const state = document.getElementById("found");
  box.closest("form").hidden = false;
  box.closest("form").addEventListener("submit", (event) => event.preventDefault());
  box.addEventListener("input", () => {
    const wanted = box.value.trim().toLowerCase();
    let found = 0;
    for (const [item, text] of items) {
      item.hidden = !text.includes(wanted);
      if (!item.hidden) found += 1;
    }
    for (const part of folded) part.open = wanted !== "";
    state.textContent = wanted ? `${found} of ${items.length}` : "";
  });
}

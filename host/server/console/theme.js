// Runs before the first paint, so that the page does not flash in the other colours.
{
  const kept = localStorage.getItem("kvasm-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}

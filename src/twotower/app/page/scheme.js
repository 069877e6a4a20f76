// Light or dark: the system's choice, or the one made here, which is set ahead of the first paint so that nothing flashes.

(() => {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.scheme ? root.dataset.scheme === "dark" : system.matches);
  try {
    const kept = localStorage.getItem("scheme");
    if (kept === "dark" || kept === "light") root.dataset.scheme = kept;
  } catch {
    // Where nothing can be kept, the choice lasts as long as the page.
  }
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("scheme");
    const show = () => button.setAttribute("aria-pressed", String(dark()));
    button.addEventListener("click", () => {
      root.dataset.scheme = dark() ? "light" : "dark";
      try {
        localStorage.setItem("scheme", root.dataset.scheme);
      } catch {
        // As above.
      }
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();

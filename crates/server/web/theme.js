// Sets the theme before the first paint. A classic script on purpose: modules run too late.
(() => {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("lowtide.theme");
    } catch {
      return null;
    }
  };
  const apply = () => {
    const choice = stored();
    const dark = choice === "dark" || (choice !== "light" && query.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    document.documentElement.dataset.themeChoice = choice ?? "auto";
    document.dispatchEvent(new Event("themechange"));
  };
  query.addEventListener("change", apply);
  addEventListener("storage", (event) => event.key === "lowtide.theme" && apply());
  document.addEventListener("themechoice", apply);
  apply();
})();

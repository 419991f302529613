// Light or dark: as the system has it, until the button says otherwise; the choice is remembered where that is allowed.

const THEME = "headspec-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const whenThemed = [];

function remembered() {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null; // pages opened from a file may have no storage
  }
}

function remember(theme) {
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // then it holds until the page is closed
  }
}

function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

function wear(theme) {
  document.documentElement.dataset.theme = theme;
  const other = theme === "dark" ? "light" : "dark";
  const button = byId("theme");
  button.textContent = other === "dark" ? "Dark" : "Light";
  button.setAttribute("aria-label", `Switch to ${other} colours`);
  for (const tell of whenThemed) tell();
}

function startTheme() {
  let chosen = remembered();
  const fitting = () => (chosen === "dark" || chosen === "light" ? chosen : system.matches ? "dark" : "light");
  wear(fitting());
  system.addEventListener("change", () => wear(fitting()));
  byId("theme").addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    remember(chosen);
    wear(chosen);
  });
  let before = null;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    if (before === "dark") wear("light");
  });
  addEventListener("afterprint", () => {
    if (before === "dark") wear("dark");
  });
}

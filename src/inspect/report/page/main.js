const data = JSON.parse(document.getElementById("data").textContent);
const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
let shows = [];
function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[name];
  theme.setAttribute("aria-label", `Colours: ${name}. Press for the next.`);
  theme.dataset.is = name;
  for (const show of shows) show();
}
theme.addEventListener("click", () => setTheme(themes[(themes.indexOf(theme.dataset.is) + 1) % themes.length]));
shows = data.kind === "log" ? logPage(data) : streamPage(data);
setTheme("auto");
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shows.forEach((show) => show()));
document.getElementById("footer").textContent = `Made by ${data.program} of ${data.file}. This page is all there is: it fetches nothing.`;
const links = [...document.querySelectorAll("nav a")];
function mark() {
  const seen = links.filter((link) => document.getElementById(link.hash.slice(1)).getBoundingClientRect().top < 140);
  const now = seen[seen.length - 1] || links[0];
  for (const link of links) if (link === now) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
}
window.addEventListener("scroll", mark, { passive: true });
mark();
document.documentElement.dataset.ready = "true";

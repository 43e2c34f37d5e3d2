// Before the page is painted: the theme that was chosen the last time, if one was.
"use strict";
try {
  const theme = localStorage.getItem("ctsm-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is switched off: the system's theme it is.
}

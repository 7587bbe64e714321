// Sets the theme that was chosen before anything is painted. A classic script, because
// modules wait for the document.
'use strict';
(() => {
  try {
    const theme = localStorage.getItem('audit-log-theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch { /* storage is off: the system's theme it is */ }
})();

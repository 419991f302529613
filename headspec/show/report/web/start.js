// Runs everything, in order. Figures come when the rest of the page, which holds them, has been read.

startTheme();
startHead();
startSections();
startGrid();
startTip();
startFilter();
startTable();
startPanel();
if (document.readyState === "loading") addEventListener("DOMContentLoaded", startFigures);
else startFigures();
document.documentElement.dataset.ready = "true";

/* Put the parts of the page in their places. */

ctrlgen.data = JSON.parse(document.getElementById("data").textContent);
for (const [id, draw] of [["head", ctrlgen.head], ["contest", ctrlgen.contest], ["overview", ctrlgen.cards], ["charts", ctrlgen.allCharts], ["comparison", ctrlgen.comparison], ["samples", ctrlgen.samples], ["reproduce", ctrlgen.reproduce]])
  draw(document.getElementById(id), ctrlgen.data);
document.documentElement.dataset.ready = "yes";
performance.mark("ready");

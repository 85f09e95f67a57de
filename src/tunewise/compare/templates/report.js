(function () {
  "use strict";
  var rows = Array.prototype.slice.call(document.querySelectorAll(".row"));
  var form = document.getElementById("filter");
  if (!form || !rows.length) { return; }
  var text = form.elements.text, wrong = form.elements.wrong;
  var domain = form.elements.domain, count = document.getElementById("count");
  form.hidden = false;
  function apply() {
    var shown = 0, sought = text.value.trim().toLowerCase();
    rows.forEach(function (row) {
      var keep = !sought || row.textContent.toLowerCase().indexOf(sought) >= 0;
      if (wrong.value) {
        keep = keep && JSON.parse(row.dataset.wrong).indexOf(wrong.value) >= 0;
      }
      if (domain && domain.value) { keep = keep && row.dataset.domain === domain.value; }
      row.hidden = !keep;
      shown += keep ? 1 : 0;
    });
    count.textContent = shown + " of " + rows.length + " shown";
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  apply();
})();

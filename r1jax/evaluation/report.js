// The report's script: before/after sliders, and the read-out of the curves.
for (const card of document.querySelectorAll('.card')) {
  const box = card.querySelector('.compare'), slider = box.querySelector('input');
  const move = () => box.style.setProperty('--x', slider.value + '%');
  slider.addEventListener('input', move);
  move();
  for (const choice of card.querySelectorAll('fieldset input')) choice.addEventListener('change', () => {
    for (const image of box.querySelectorAll('.right-side')) image.hidden = image.dataset.kind !== choice.value;
    box.querySelector('.tag.right').textContent = choice.value;
  });
}
for (const plot of document.querySelectorAll('.chart svg')) {
  const points = JSON.parse(plot.dataset.points), cursor = plot.querySelector('.cursor');
  const shown = plot.parentElement.querySelector('output'), last = shown.textContent;
  plot.addEventListener('pointermove', event => {
    const box = plot.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * plot.viewBox.baseVal.width;
    const near = points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    cursor.setAttribute('x1', near[0]); cursor.setAttribute('x2', near[0]);
    shown.textContent = near[2] + ': ' + near[3];
  });
  plot.addEventListener('pointerleave', () => {
    shown.textContent = last;
  });
}

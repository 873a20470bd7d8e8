'use strict';
(() => {
  const root = document.documentElement;
  const tip = document.getElementById('tip');

  // Clock: the page shows one at a time.
  const clocks = document.querySelectorAll('button[data-clock]');
  for (const button of clocks) {
    button.addEventListener('click', () => {
      root.dataset.clock = button.dataset.clock;
      for (const other of clocks) {
        other.setAttribute('aria-pressed', String(other === button));
      }
    });
  }

  // Theme: what the system prefers, until the reader says otherwise.
  const theme = document.getElementById('theme');
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : dark.matches);
  const nameTheme = () => {
    theme.textContent = isDark() ? 'Light' : 'Dark';
    theme.setAttribute('aria-label', `Change to the ${isDark() ? 'light' : 'dark'} theme`);
  };
  theme.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    nameTheme();
  });
  dark.addEventListener('change', nameTheme);
  nameTheme();

  // What a bar or a cell says in full, beside it.
  const show = (element) => {
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    const at = element.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - own.width / 2), innerWidth - own.width - 8);
    const above = at.top - own.height - 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above < 8 ? at.bottom + 6 : above}px`;
  };
  const hide = () => {
    tip.hidden = true;
  };
  const leave = () => {
    hide();
    document.querySelector('.at')?.classList.remove('at');
  };
  document.addEventListener('pointerover', (event) => {
    const element = event.target.closest('[data-tip]');
    if (element) show(element);
    else hide();
  });
  addEventListener('scroll', hide, { passive: true });

  // By keyboard: a chart or a table takes the focus, the arrows go from one value to the next, Escape leaves them.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') return leave();
    const chart = document.activeElement?.closest('.chart,.scroll,.waterfall');
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!chart || !step) return;
    const all = [...chart.querySelectorAll('[data-tip]')].filter((e) => e.getClientRects().length);
    if (!all.length) return;
    const now = all.findIndex((element) => element.classList.contains('at'));
    const next = all[(now + step + all.length) % all.length] ?? all[0];
    leave();
    next.classList.add('at');
    show(next);
    event.preventDefault();
  });
})();

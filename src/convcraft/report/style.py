"""The look of a report: system fonts, one column of text, two accent colours, light, dark and print."""

CSS = """
:root { color-scheme: light dark; --page: #fdfdfc; --panel: #f5f6f6; --ink: #1c2025; --muted: #626a73; --rule: #d9dce0;
  --blue: #0b66b1; --orange: #c9511b; --red: #b3122b; --red-panel: #fdecec; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --panel: #1c2024; --ink: #e7e9eb; --muted: #9ba4ad;
  --rule: #343a41; --blue: #5fb0ee; --orange: #f2925a; --red: #ff8a93; --red-panel: #3a171b; }
  figure svg image { filter: brightness(1.15); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif;
  font-variant-numeric: tabular-nums; }
.layout { max-width: 1400px; margin: 0 auto; padding: 0 20px 64px; }
header { padding: 44px 0 4px; }
h1 { font-size: 1.6rem; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; margin: 0;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 0 0 14px; }
h2 [lang], nav [lang] { color: var(--muted); font-weight: 400; }
h3 { font-size: .95rem; font-weight: 650; margin: 24px 0 8px; }
.figures h3 { margin-top: 0; }
p { margin: 0 0 12px; max-width: 46em; }
.note, figcaption { color: var(--muted); font-size: .875rem; max-width: 46em; }
section { border-top: 1px solid var(--rule); padding: 28px 0 20px; scroll-margin-top: 8px; }
a { color: var(--blue); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
nav { font-size: .875rem; padding: 16px 0 20px; }
nav ol { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 18px; }
.figure-of-merit { padding: 28px 0 8px; max-width: 460px; }
.figure-of-merit .value { font-size: clamp(3.2rem, 9vw, 4.6rem); line-height: 1; font-weight: 680;
  letter-spacing: -.035em; color: var(--blue); white-space: nowrap; }
.figure-of-merit .label { font-weight: 600; margin-bottom: 8px; }
.figure-of-merit .note { margin-top: 8px; }
.scale { margin-top: 18px; } .scale .line { position: relative; height: 12px; border-bottom: 1px solid var(--muted); }
.scale .band { position: absolute; bottom: 0; height: 6px; background: var(--blue); opacity: .4; }
.scale .dot { position: absolute; bottom: -5px; width: 11px; height: 11px; margin-left: -5.5px; border-radius: 50%;
  background: var(--blue); }
.scale .ends { display: flex; justify-content: space-between; color: var(--muted); font-size: .75rem; margin-top: 6px; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(126px, 1fr)); gap: 18px 24px;
  margin: 20px 0 24px; }
.facts dt { color: var(--muted); font-size: .8125rem; }
.facts dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
.facts dd small { display: block; font-size: .8125rem; font-weight: 400; color: var(--muted); }
.scroll { overflow-x: auto; margin: 0 0 14px; }
.scroll.tall { max-height: 560px; overflow-y: auto; content-visibility: auto; contain-intrinsic-size: auto 560px; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: 5px 24px 5px 0; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--muted); font-weight: 500; font-size: .8125rem; white-space: nowrap; }
tbody th { font-weight: 500; }
td, th { overflow-wrap: break-word; max-width: 26em; }
th.number, td.number { text-align: right; white-space: nowrap; }
table.pairs th { color: var(--muted); font-weight: 400; white-space: nowrap; }
table.pairs td { overflow-wrap: anywhere; max-width: 46em; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 20px 32px;
  align-items: start; }
figure { margin: 0 0 12px; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg text { font-family: inherit !important; }
figcaption { margin-top: 6px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 20px 16px; padding: 0;
  margin: 0; list-style: none; font-size: .8125rem; line-height: 1.4; }
.pictures.small { grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)); gap: 10px; }
.pictures img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain;
  background: var(--panel); border: 1px solid var(--rule); border-radius: 3px; margin-bottom: 6px; }
img.pixels { image-rendering: pixelated; }
.pictures .name { color: var(--muted); overflow-wrap: anywhere; }
.pictures li { break-inside: avoid; min-width: 0; overflow-wrap: anywhere; }
.right { color: var(--blue); } .wrong { color: var(--orange); }
.maps { display: grid; grid-template-columns: minmax(120px, 200px) 1fr; gap: 28px; align-items: start; }
.findings { list-style: none; margin: 0; padding: 0; }
.findings li { border-left: 3px solid var(--rule); padding: 2px 0 2px 14px; margin: 0 0 14px; overflow-wrap: anywhere; }
.findings .warning { border-color: var(--orange); } .findings .error { border-color: var(--orange); }
.findings .severity { font-weight: 650; }
.findings .warning .severity, .findings .error .severity { color: var(--orange); }
.warned { border-left: 3px solid var(--orange); padding-left: 14px; }
.void { border: 2px solid var(--red); background: var(--red-panel); border-radius: 4px; padding: 14px 18px 4px;
  margin: 20px 0 0; max-width: 62em; }
.void strong { color: var(--red); } .void ul { margin: 6px 0 10px; padding-left: 20px; }
.not-valid .value { color: var(--red); text-decoration: line-through; text-decoration-thickness: 3px; }
.head { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 0 48px;
  align-items: start; }
.in-words { padding-top: 30px; font-size: 1.06rem; } .in-words p { margin: 0 0 8px; max-width: 40em; }
.in-words p:last-child { font-weight: 600; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
button:focus-visible, .scroll:focus-visible, pre:focus-visible, input:focus-visible, .opened:focus-visible {
  outline: 2px solid var(--blue); outline-offset: 1px; }
button.plain { color: var(--blue); padding: 3px 10px; border: 1px solid var(--rule); border-radius: 4px; }
td button.plain { padding: 0 8px; min-width: 2.4em; }
button.plain:hover { background: var(--panel); }
button.sort { text-align: inherit; white-space: nowrap; }
button.sort::after { content: "↕"; opacity: .4; padding-left: 4px; }
[aria-sort=ascending] button.sort::after { content: "↑"; opacity: 1; }
[aria-sort=descending] button.sort::after { content: "↓"; opacity: 1; }
.tall thead th { position: sticky; top: 0; background: var(--page); }
.figures.confusion { grid-template-columns: minmax(0, max-content) minmax(min(100%, 260px), 1fr); }
table.matrix { border-collapse: separate; border-spacing: 1px; font-size: .8125rem; margin: 0; }
table.matrix th, table.matrix td { border: 0; padding: 0; max-width: none; }
table.matrix thead th { vertical-align: bottom; text-align: left; padding-bottom: 4px; color: var(--ink); }
table.matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg); margin: 0 auto; display: block;
  white-space: nowrap; max-height: 150px; }
table.matrix tbody th { text-align: right; padding: 0 8px 0 0; white-space: nowrap; vertical-align: middle;
  position: sticky; left: 0; background: var(--page); font-weight: 400; }
table.matrix .corner { vertical-align: bottom; text-align: right; padding: 0 8px 4px 0; color: var(--muted);
  white-space: nowrap; font-size: .75rem; position: sticky; left: 0; background: var(--page); }
table.matrix .corner span { writing-mode: horizontal-tb; transform: none; white-space: pre-line; }
table.matrix tbody td { min-width: 34px; height: 34px; text-align: center; vertical-align: middle;
  background: var(--panel); }
table.matrix tbody td.hit { background: color-mix(in srgb, var(--blue) var(--strength), var(--panel)); }
table.matrix tbody td.miss { background: color-mix(in srgb, var(--orange) var(--strength), var(--panel)); }
table.matrix td.strong { color: var(--page); }
table.matrix button { width: 100%; min-height: 34px; padding: 0 5px; }
table.matrix button:hover { text-decoration: underline; }
table.matrix button.open, table.matrix button:focus-visible { outline: 2px solid var(--ink); outline-offset: 0; }
.opened { border: 1px solid var(--rule); border-radius: 4px; padding: 14px 16px; margin: 8px 0 18px; }
.opened[hidden] { display: none; } .opened .top { display: flex; justify-content: space-between; gap: 16px;
  align-items: start; margin-bottom: 12px; } .opened h3 { margin: 0; overflow-wrap: anywhere; }
.opened .names { overflow-wrap: anywhere; max-width: 70em; margin: 12px 0 0; }
.look { display: block; margin: 0 0 10px; } .look[hidden] { display: none; }
.look input { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 4px; padding: 4px 8px; width: min(100%, 20em); }
.switch { display: block; margin: 0 0 12px; font-size: .875rem; max-width: 46em; }
.under-heat { position: relative; overflow: hidden; border-radius: 3px; margin-bottom: 6px; }
.under-heat img { margin: 0; } .under-heat .heat { position: absolute; inset: 0; height: 100%; background: none;
  border-color: transparent; opacity: 0; }
section:has(#heat:checked) .under-heat .heat { opacity: .6; }
section:has(#heat:checked) .under-heat img:first-child { filter: grayscale(1); }
.places { max-width: 520px; } .places svg { background: var(--panel); border-radius: 4px; }
.ring { fill: none; stroke: var(--ink); stroke-width: 1.6; }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 12px; padding: 0;
  font-size: .875rem; } .keys svg { vertical-align: -2px; overflow: visible; }
.limits { margin: 0; padding-left: 18px; }
pre { background: var(--panel); border-radius: 4px; padding: 14px 16px; margin: 0 0 12px; overflow: auto;
  max-height: 480px; font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
footer { border-top: 1px solid var(--rule); padding-top: 16px; color: var(--muted); font-size: .8125rem; }
@media (max-width: 560px) { .layout { padding: 0 16px 48px; } header { padding-top: 28px; }
  th, td { padding-right: 16px; } table.pairs th { white-space: normal; }
  .in-words { padding-top: 18px; }
  .figures.confusion { grid-template-columns: minmax(0, 1fr); }
  table.matrix { font-size: .75rem; } table.matrix tbody td { min-width: 26px; height: 30px; }
  table.matrix button { min-height: 30px; padding: 0 2px; }
  .maps { grid-template-columns: 1fr; } .maps figure { max-width: 180px; }
  nav ol { flex-wrap: nowrap; overflow-x: auto; white-space: nowrap; } }
@media (min-width: 1180px) {
  .layout { display: grid; grid-template-columns: 210px minmax(0, 1fr); column-gap: 48px; }
  header, footer { grid-column: 2; } nav { grid-column: 1; grid-row: 1 / span 3; padding-top: 52px; }
  nav ol { display: block; position: sticky; top: 28px; } nav li { margin: 0 0 7px; } }
@media print {
  :root { color-scheme: light; --page: #fff; --panel: #f5f6f6; --ink: #1c2025; --muted: #565d65; --rule: #d9dce0;
    --blue: #0b66b1; --orange: #c9511b; --red: #b3122b; --red-panel: #fdecec; }
  button.sort::after { content: "" !important; }
  .switch input, .look, #pairs-more, .opened .top button { display: none; }
  table.matrix td, .heat, .void { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  table { font-size: .8rem; } .head { gap: 0 20px; } .in-words { font-size: 1rem; }
  .tall thead th { position: static; } .scroll.tall { content-visibility: visible; }
  figure svg image { filter: none; }
  body { font-size: 10.5pt; } nav { display: none; } .layout { display: block; max-width: none; padding: 0; }
  header { padding-top: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  .figures { grid-template-columns: minmax(250px, 1fr) minmax(0, 1fr); gap: 16px; } th, td { padding-right: 12px; }
  pre, .scroll, .scroll.tall { max-height: none; overflow: visible; } pre { white-space: pre-wrap; } }
"""

"""The look of a report: system fonts, one column of text, two accent colours, light, dark and print."""

CSS = """
:root { color-scheme: light dark; --page: #fdfdfc; --panel: #f5f6f6; --ink: #1c2025; --muted: #626a73; --rule: #d9dce0;
  --blue: #0b66b1; --orange: #c9511b; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --panel: #1c2024; --ink: #e7e9eb; --muted: #9ba4ad;
  --rule: #343a41; --blue: #5fb0ee; --orange: #f2925a; }
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
.scroll.tall { max-height: 560px; overflow-y: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: 5px 24px 5px 0; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--muted); font-weight: 500; font-size: .8125rem; white-space: nowrap; }
tbody th { font-weight: 500; }
td, th { overflow-wrap: break-word; max-width: 26em; }
th.number, td.number { text-align: right; white-space: nowrap; }
table.pairs th { color: var(--muted); font-weight: 400; white-space: nowrap; }
table.pairs td { overflow-wrap: anywhere; }
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
pre { background: var(--panel); border-radius: 4px; padding: 14px 16px; margin: 0 0 12px; overflow: auto;
  max-height: 480px; font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
footer { border-top: 1px solid var(--rule); padding-top: 16px; color: var(--muted); font-size: .8125rem; }
@media (max-width: 560px) { .layout { padding: 0 16px 48px; } header { padding-top: 28px; }
  th, td { padding-right: 16px; }
  .maps { grid-template-columns: 1fr; } .maps figure { max-width: 180px; }
  nav ol { flex-wrap: nowrap; overflow-x: auto; white-space: nowrap; } }
@media (min-width: 1180px) {
  .layout { display: grid; grid-template-columns: 210px minmax(0, 1fr); column-gap: 48px; }
  header, footer { grid-column: 2; } nav { grid-column: 1; grid-row: 1 / span 3; padding-top: 52px; }
  nav ol { display: block; position: sticky; top: 28px; } nav li { margin: 0 0 7px; } }
@media print {
  :root { color-scheme: light; --page: #fff; --panel: #f5f6f6; --ink: #1c2025; --muted: #565d65; --rule: #d9dce0;
    --blue: #0b66b1; --orange: #c9511b; }
  figure svg image { filter: none; }
  body { font-size: 10.5pt; } nav { display: none; } .layout { display: block; max-width: none; padding: 0; }
  header { padding-top: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  .figures { grid-template-columns: minmax(250px, 1fr) minmax(0, 1fr); gap: 16px; } th, td { padding-right: 12px; }
  pre, .scroll, .scroll.tall { max-height: none; overflow: visible; } pre { white-space: pre-wrap; } }
"""

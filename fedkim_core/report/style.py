"""The style sheet of the page: light and dark, phone and paper.

Colours of series follow Okabe & Ito's palette for colour-blind readers ("Color Universal
Design", 2008), darkened or lightened until they stand 3:1 against their background.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --panel: #ffffff; --ink: #15202b; --soft: #52606d; --rule: #d9dfe5;
  --grid: #e6eaee; --link: #0b5cad; --heat: #08488a; --heat-ink: #ffffff;
  --warn: #fff3d6; --warn-ink: #5a3d00; --warn-rule: #e0a100;
  --before: #66727e; --extractor: #b45600; --injected: #0b5cad; --good: #0a6b4f; --bad: #a8321a;
  --s0: #0b6fb0; --s1: #c04d00; --s2: #00805f; --s3: #a8508a; --s4: #8f6a00; --s5: #2d86b8;
  --s6: #6a4bb0; --s7: #4d5761;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10161c; --panel: #19222b; --ink: #e8edf2; --soft: #a3b1be; --rule: #33404c;
    --grid: #2a3641; --link: #7cbcff; --heat: #2a6db8; --heat-ink: #ffffff;
    --warn: #3a2d0a; --warn-ink: #ffe2a0; --warn-rule: #c99412;
    --before: #a0acb8; --extractor: #f0913a; --injected: #6cb4ff; --good: #4cc79f; --bad: #ff8d72;
    --s0: #5fb3f0; --s1: #ff8a45; --s2: #3ec49c; --s3: #e08cc2; --s4: #e3b437; --s5: #8fd3f5;
    --s6: #b39dff; --s7: #b7c2cc;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 12px; top: 12px; background: var(--panel); padding: 8px 14px; z-index: 9; }
.banner { background: var(--warn); color: var(--warn-ink);
  border-bottom: 2px solid var(--warn-rule); }
.banner p { max-width: 1120px; margin: 0 auto; padding: 10px 20px; }
header { padding-top: 32px; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 6px; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 24px 0 8px; }
.answer { font-size: clamp(1.3rem, 1rem + 1.5vw, 1.8rem); line-height: 1.32; font-weight: 600;
  margin: 0 0 12px; max-width: 46em; text-wrap: pretty; }
.more { margin: 0 0 6px; max-width: 88ch; text-wrap: pretty; }
.meta, .soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px;
  margin: 22px 0 14px; padding: 0; list-style: none; }
.tiles li { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px;
  padding: 12px 14px; }
.tiles b { display: block; font-size: 1.3rem; line-height: 1.25; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.tiles span { color: var(--soft); font-size: .84rem; line-height: 1.35; display: block;
  margin-top: 3px; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0;
  margin: 10px 0 22px; font-size: .92rem; }
section { background: var(--panel); border: 1px solid var(--rule); border-radius: 12px;
  padding: 22px 24px; margin: 0 0 18px; }
section > p { max-width: 76ch; margin: 0 0 12px; }
.wide { overflow-x: auto; margin: 12px 0; position: relative; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 8px; caption-side: top; }
th, td { text-align: left; padding: 7px 10px; border-bottom: 1px solid var(--rule);
  vertical-align: middle; }
thead th { font-size: .82rem; color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
tbody th[rowspan] { vertical-align: top; }
tbody th.group { padding: 18px 10px 6px; border-bottom: 2px solid var(--rule); }
tbody th.group span { font-weight: 400; color: var(--soft); font-size: .9rem; }
tfoot th, tfoot td { font-weight: 600; border-bottom: 0; }
.num { text-align: right; white-space: nowrap; }
.score b { font-size: 1.02rem; }
td.injected b { color: var(--injected); }
.score small, .what { display: block; color: var(--soft); font-size: .8rem; font-weight: 400;
  white-space: nowrap; }
.na { color: var(--soft); }
.na a { text-decoration: none; padding: 0 2px; }
.up { color: var(--good); } .down { color: var(--bad); }
.delta { white-space: nowrap; }
.footnotes { font-size: .85rem; color: var(--soft); margin: 6px 0 0; padding-left: 22px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; padding: 0;
  margin: 10px 0; font-size: .9rem; }
.legend li { display: flex; align-items: center; gap: 7px; }
.key { width: 26px; height: 14px; flex: none; }
.small-multiples { display: grid; gap: 14px 22px; margin: 12px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.pairs > figure > div { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }
figure { margin: 0; break-inside: avoid; min-width: 0; }
figcaption b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg.forest { width: 220px; max-width: 100%; min-width: 140px; }
svg.paired { width: 100%; }
.paired th.picture { width: 34%; }
svg text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.pairs svg.paired { width: 100%; }
.paired th.picture { width: 34%; }
svg text { font-size: 13.5px; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .chance { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
svg .whisker { stroke: currentColor; stroke-width: 1; opacity: .55; }
svg.reliability { max-width: 300px; }
.tight { grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)); }
.score small.mark { color: var(--bad); font-weight: 600; }
.score small.wrap { white-space: normal; min-width: 6.5em; }
svg .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg .seed { opacity: .6; }
svg g, svg.key { color: var(--soft); fill: currentColor; }
svg .hollow { fill: var(--panel); stroke: currentColor; stroke-width: 2; }
.s-before { color: var(--before) !important; } .s-extractor { color: var(--extractor) !important; }
.s-injected { color: var(--injected) !important; }
.s-extractor .line { stroke-dasharray: 6 3; } .forest .line { stroke-dasharray: none !important; }
.s-site0 { color: var(--s0) !important; } .s-site1 { color: var(--s1) !important; }
.s-site2 { color: var(--s2) !important; } .s-site3 { color: var(--s3) !important; }
.s-site4 { color: var(--s4) !important; } .s-site5 { color: var(--s5) !important; }
.s-site6 { color: var(--s6) !important; } .s-site7 { color: var(--s7) !important; }
.s-many { opacity: .45; } .s-median { color: var(--ink) !important; }
.heat { table-layout: auto; }
.heat td { text-align: center; padding: 4px 3px; font-size: .82rem; font-weight: 600;
  min-width: 34px;
  border: 2px solid var(--panel);
  background: color-mix(in srgb, var(--heat) calc(var(--w) * 100%), var(--grid)); }
.heat td.strong { color: var(--heat-ink); }
.heat thead th { text-align: center; padding: 4px 2px; }
.heat th[scope=row] { position: sticky; left: 0; background: var(--panel); white-space: nowrap;
  border-bottom: 0; padding: 4px 12px 4px 0; font-size: .88rem; font-weight: 500; z-index: 1; }
.heat.dense td { min-width: 8px; font-size: 0; padding: 9px 0; border-width: 1px; }
.ramp { display: inline-block; width: 90px; height: 11px; vertical-align: -1px; border-radius: 2px;
  background: linear-gradient(90deg, var(--grid), var(--heat)); }
.bar { display: block; height: 12px; min-width: 2px; border-radius: 3px;
  background: var(--injected); }
.tick { color: var(--good); font-weight: 700; }
details { border-top: 1px solid var(--rule); margin-top: 14px; padding-top: 10px; }
summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
pre { overflow-x: auto; background: var(--page); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 14px; font-size: .84rem; line-height: 1.45; }
dl.reading dt { font-weight: 600; margin-top: 12px; }
dl.reading dd { margin: 2px 0 0; max-width: 76ch; }
footer { padding-bottom: 40px; }
.sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
@media screen and (max-width: 900px) {
  main, header, footer { padding-left: 12px; padding-right: 12px; }
  .banner p { padding: 10px 12px; }
  section { padding: 18px 14px; }
  .pairs > figure > div { gap: 4px; }
  /* The result table becomes one block per task; its roles are given in the HTML. */
  .results thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  .results table, .results caption, .results tbody, .results tr, .results th, .results td {
    display: block; }
  .results tr { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px 10px;
    border-bottom: 1px solid var(--rule); padding: 10px 0; }
  .results th, .results td { border: 0 !important; padding: 0; text-align: left; }
  .results th.group, .results th[scope=row], .results td.picture { grid-column: 1 / -1; }
  .results th.group { padding: 12px 0 4px; }
  .results tr:has(th.group) { border-bottom: 2px solid var(--rule); padding: 4px 0; }
  .results td[data-label]::before { content: attr(data-label); display: block; font-size: .76rem;
    color: var(--soft); }
  .results td.count { order: 2; }
  .results td.delta { order: 1; grid-column: span 2; }
  .results td.picture { order: 3; padding-top: 4px; }
  svg.forest { width: 100%; max-width: 320px; }
  .paired tr { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .paired small { white-space: normal; } .paired td[colspan] { align-self: end; }
}
@media screen and (max-width: 480px) {
  .pinned th[scope=row] { position: sticky; left: 0; z-index: 1; background: var(--panel);
    width: 116px; min-width: 116px; padding-left: 0; line-height: 1.2; overflow-wrap: anywhere; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .pairs > figure > div { grid-template-columns: 1fr; }
  .heat th[scope=row] { white-space: normal; width: 116px; min-width: 116px; line-height: 1.2; }
  .pairs svg.paired { width: 100%; }
.paired th.picture { width: 34%; }
svg text { font-size: 11px; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --panel: #fff; --ink: #000; --soft: #444;
    --rule: #bbb; --grid: #e4e4e4; --link: #000; --heat: #08488a; --heat-ink: #fff; --warn: #fff;
    --warn-ink: #000; --warn-rule: #000; --before: #66727e; --extractor: #b45600;
    --injected: #0b5cad; --good: #0a6b4f; --bad: #a8321a; --s0: #0b6fb0; --s1: #c04d00;
    --s2: #00805f; --s3: #a8508a; --s4: #8f6a00; --s5: #2d86b8; --s6: #6a4bb0; --s7: #4d5761; }
  body { font-size: 10.5pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  nav, .skip { display: none; }
  section { border: 0; padding: 0; margin: 0 0 18pt; }
  tr, .tiles li, h2, h3 { break-inside: avoid; } h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .wide { overflow: visible; }
  .small-multiples { grid-template-columns: repeat(3, 1fr); }
  .pairs { grid-template-columns: repeat(2, 1fr); }
  .tiles { grid-template-columns: repeat(3, 1fr); }
  th, td { padding: 4px 6px; }
  svg.forest { width: 150px; }
  .heat, thead { break-inside: avoid; } tfoot { display: table-row-group; }
  .forest, th, td { font-size: 9pt; }
}
"""

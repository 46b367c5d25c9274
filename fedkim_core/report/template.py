"""The page as a Jinja template. It is Python because a Flower bundle ships no HTML files."""

from fedkim_core.report.evidence_template import (
    BY_SITE,
    CALIBRATION,
    CONTROLS,
    DIFFERENCES,
    OPERATING,
)

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>fedkim report{{ " (synthetic data)" if run.synthetic }}</title>
<style>{{ style }}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
{% if run.synthetic %}
<div class="banner" role="note"><p><b>Synthetic data.</b> Every patient behind this page was
simulated. The numbers show that the method works end to end; they say nothing about real
patients.</p></div>
{% endif %}
"""

_MACROS = """
{% macro score(task, column, metric, notes) %}
{% set e = task.estimate(column, metric) %}
{% if e %}
<b>{{ e.value | number }}</b>{% if e.span %} <small>{{ e | interval }}</small>{% endif %}
{% else %}
{% set reason = task.reason(column, metric) %}
{% set mark = notes.mark(reason) %}
<span class="na" title="{{ reason }}">n/a<sup><a href="#{{ notes.anchor }}-{{ mark }}"
 aria-label="reason {{ mark }}">{{ mark }}</a></sup></span>
{% endif %}
{% endmacro %}
{% macro listing(notes) %}
{% if notes.reasons %}
<ol class="footnotes" aria-label="Why some scores are not available">
{% for reason in notes.reasons %}
<li id="{{ notes.anchor }}-{{ loop.index }}">{{ reason }}</li>
{% endfor %}
</ol>
{% endif %}
{% endmacro %}
"""

_ANSWER = """
<header>
<h1>What {{ run.foundation.name }} learned from {{ run.data.sites | length | plural("site") }}</h1>
<p class="answer">{{ answer[0] }}</p>
<p class="more">{{ answer[1:] | join(" ") }}</p>
<ul class="tiles">
{% for figure, what in tiles %}
<li><b>{{ figure }}</b><span>{{ what }}</span></li>
{% endfor %}
</ul>
<p class="meta">{{ run.foundation.name }}, {{ run.foundation.parameters | parameters }} parameters,
frozen{{ " (" ~ run.foundation.dtype ~ ")" if run.foundation.dtype }}; extractor
{{ run.extractor.name }}, {{ run.extractor.parameters | parameters }} parameters; strategy
{{ run.strategy }}; injector {{ run.injector }}; data {{ run.data.name }}; seed {{ run.seed }};
fedkim {{ run.fedkim }}.</p>
{% for note in notes %}
<p class="meta" role="note">Note: {{ note }}</p>
{% endfor %}
<nav aria-label="On this page"><ul>
<li><a href="#results">Results</a></li>
{% if compared %}<li><a href="#sure">How sure</a></li>{% endif %}
<li><a href="#learning">Learning curves</a></li>
{% if gate %}<li><a href="#gate">Gate</a></li>{% endif %}
{% if site_table %}<li><a href="#by-site">By site</a></li>{% endif %}
{% if calibrations %}<li><a href="#calibration">Calibration</a></li>{% endif %}
{% if operating_rows %}<li><a href="#operating">Operating points</a></li>{% endif %}
{% if control_table %}<li><a href="#controls">Controls</a></li>{% endif %}
<li><a href="#sent">What was sent</a></li><li><a href="#sites">Sites and data</a></li>
<li><a href="#cost">Time and memory</a></li><li><a href="#configuration">Configuration</a></li>
<li><a href="#reading">How to read this page</a></li>
</ul></nav>
</header>
"""

_RESULTS = """
<section id="results" aria-labelledby="results-h">
<h2 id="results-h">Results on patients nobody trained on</h2>
<p>Each score runs from 0 to 1, higher is better. For yes/no tasks it is the AUROC: 0.5 is guessing
(dotted line), 1 is perfect. The smaller numbers and the bars are 95&nbsp;% intervals.</p>
<ul class="legend">
<li>{{ forest_key("before") }} Before: the foundation model alone, which reads text only</li>
<li>{{ forest_key("extractor") }} Extractor: the sites' own model, without the foundation model</li>
<li>{{ forest_key("injected") }} Injected: the foundation model with the sites' knowledge</li>
</ul>
{% set notes = footnotes("result-note") %}
<div class="results">
<table role="table">
<caption>Test set: the leading score of each task{{ " (synthetic data)" if run.synthetic }}.
</caption>
<thead role="rowgroup"><tr role="row">
<th role="columnheader" scope="col">Task</th><th role="columnheader" scope="col">Examples</th>
{% for column in columns %}
<th role="columnheader" scope="col">{{ column_names[column] }}</th>
{% endfor %}
<th role="columnheader" scope="col">Change</th>
<th role="columnheader" scope="col">0 to 1</th></tr></thead>
{% for title, meaning, tasks in groups %}
<tbody role="rowgroup">
<tr role="row"><th class="group" role="rowheader" scope="rowgroup" colspan="7">{{ title }}<span>:
{{ meaning }}</span></th></tr>
{% for name, task in tasks.items() %}
<tr role="row">
<th role="rowheader" scope="row">{{ name | spaced }}<span class="what">
{{- metric_names[task.metrics[0]] -}}
{{ ", synthetic" if task.synthetic and not run.synthetic }}</span></th>
<td role="cell" class="count" data-label="Examples">{{ task.n }}
{% if task.positives is not none %}<span class="what">{{ task.positives }} yes</span>
{%- endif %}</td>
{% for column in columns %}
<td role="cell" class="score {{ column }}" data-label="{{ column_names[column] }}">
{{ score(task, column, none, notes) }}</td>
{% endfor %}
<td role="cell" class="delta" data-label="Change">
{% set a = task.estimate("before") %}
{% set b = task.estimate("injected") %}
{% if a and b %}
{% set sign = clear(task) %}
{% set d = b.value - a.value %}
<span class="{{ "up" if sign > 0 else "down" if sign < 0 }}">
{{- d | signed }}</span>
<span class="what">{{ "clearly better" if sign > 0 else "clearly worse" if sign < 0
 else "not clear" }}</span>
{% else %}<span class="na">n/a</span>{% endif %}</td>
<td role="cell" class="picture">{{ forest(name | spaced, task) }}</td>
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
{{ listing(notes) }}
<p class="soft">{% if compared %}A change is called clear when a paired test on the same patients
gives p below 0.05 after correction for the number of tasks (next section).{% else %}A change is
called clear when the intervals before and after do not overlap, which is stricter than a test at
5&nbsp;%. Where many tasks are compared, judge single ones with care.{% endif %}</p>
<details>
<summary>All scores</summary>
{% set notes = footnotes("score-note") %}
{% for kind, metrics in metric_sets %}
{% set chosen = run.tasks.items() | selectattr("1.answer", "equalto", kind) | list %}
{% if chosen %}
<div class="wide" role="region" tabindex="0" aria-label="All scores, {{ kind | spaced }} tasks">
<table>
<caption>{{ "Yes/no" if kind == "yes_no" else "Free-text" }} tasks, test set, value and 95&nbsp;%
interval.</caption>
<thead><tr><th scope="col">Task</th><th scope="col">Model</th>
{% for metric in metrics %}<th scope="col">{{ metric_names[metric] }}</th>{% endfor %}</tr></thead>
{% for name, task in chosen %}
<tbody>
{% for column in columns %}
<tr>
{% if loop.first %}<th scope="rowgroup" rowspan="3">{{ name | spaced }}</th>{% endif %}
<th scope="row">{{ column_names[column] }}</th>
{% for metric in metrics %}
<td class="score">{{ score(task, column, metric, notes) }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table></div>
{% endif %}
{% endfor %}
{{ listing(notes) }}
</details>
</section>
"""

_LEARNING = """
<section id="learning" aria-labelledby="learning-h">
<h2 id="learning-h">Learning curves</h2>
{% if curves %}
<p>The leading score on the validation set after each round, kept apart from the test set above.
Round 0 is before any training.</p>
<ul class="legend">
<li>{{ forest_key("extractor") }} Extractor</li><li>{{ forest_key("injected") }} Injected</li>
</ul>
<div class="small-multiples">
{% for name, metric, picture in curves %}
<figure><figcaption><b>{{ name | spaced }}</b> {{ metric }},
{{ "trained" if run.tasks[name].role == "train" else "unseen" }}</figcaption>{{ picture }}</figure>
{% endfor %}
</div>
{% else %}
<p>metrics.jsonl holds no validation scores.</p>
{% endif %}
{% if site_curves %}
<h3>By site, as the sites report it while they train</h3>
<ul class="legend">
{% for name, swatch in site_legend %}<li>{{ swatch }} {{ name }}</li>{% endfor %}
</ul>
<div class="small-multiples pairs">
{% for name, pair in site_curves %}
<figure><figcaption><b>{{ name | spaced }}</b></figcaption><div>
{% for label, picture in pair %}<div><span class="what">{{ label }}</span>{{ picture }}</div>
{% endfor %}</div></figure>
{% endfor %}
</div>
{% endif %}
</section>
"""

_GATE = """
{% if gate %}
<section id="gate" aria-labelledby="gate-h">
<h2 id="gate-h">Which experts answer which task</h2>
<p>The gate shares each task out over {{ gate.experts | plural("expert") }}; each row adds up to
100 %. Knowing the task tells <b>{{ gate.bits | number }} bits</b> about the expert (mutual
information over {{ gate.rows | length | plural("task") }}
{%- if gate.bits_trained is not none %}; {{ gate.bits_trained | number }} bits over the trained ones
{%- endif %}). A uniform gate, which treats all tasks alike, has 0 bits; the most possible
here is {{ gate.most | number }} bits.</p>
<div class="wide" role="region" tabindex="0" aria-label="Gate, task by expert">
<table class="heat{{ " dense" if gate.experts > 16 }}">
<caption>Weight of each expert in per cent. <span class="ramp" aria-hidden="true"></span>
0 to {{ (gate.top * 100) | round | int }} %</caption>
<thead><tr><td></td>
{% for i in range(gate.experts) %}
<th scope="col"><span class="sr">expert </span>{{ i + 1 if gate.experts <= 16 or i % 8 == 0 }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for name, cells in gate.rows %}
<tr><th scope="row">{{ name | spaced }}</th>
{% for weight, share in cells %}
<td style="--w:{{ "%.3f" | format(share) }}"{% if share > 0.62 %} class="strong"{% endif %}
 title="{{ name | spaced }}, expert {{ loop.index }}: {{ "%.1f" | format(weight * 100) }} %">
{{- (weight * 100) | round | int }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</section>
{% endif %}
"""

_SENT = """
<section id="sent" aria-labelledby="sent-h">
<h2 id="sent-h">What was sent</h2>
<p>Between the server and a site travel the arrays of encoders and heads, counts of examples, and
two training scores, loss and AUROC. No image, signal, table, text or label of a patient leaves a
site, and the foundation model never leaves the server.</p>
{% if sent.sites %}
<div class="wide" role="region" tabindex="0" aria-label="Bytes by site">
<table><caption>Sent over all rounds.</caption>
<thead><tr><th scope="col">Site</th><th class="num" scope="col">To the site</th>
<th class="num" scope="col">From the site</th></tr></thead>
<tbody>{% for site, down, up in sent.sites %}
<tr><th scope="row">{{ site }}</th><td class="num">{{ down | amount }}</td>
<td class="num">{{ up | amount }}</td></tr>{% endfor %}</tbody>
<tfoot><tr><th scope="row">All sites</th><td class="num">{{ sent.total[0] | amount }}</td>
<td class="num">{{ sent.total[1] | amount }}</td></tr></tfoot></table></div>
<details><summary>By round</summary>
<div class="wide" role="region" tabindex="0" aria-label="Bytes by round and site">
<table><caption>Bytes in each round.</caption>
<thead><tr><th scope="col">Round</th><th scope="col">Site</th>
<th class="num" scope="col">Bytes to the site</th>
<th class="num" scope="col">Bytes from the site</th>
</tr></thead><tbody>
{% for t in sent.rounds %}
<tr><td>{{ t.round }}</td><th scope="row">{{ t.site }}</th>
<td class="num">{{ "{:,}".format(t.bytes_down) }}</td>
<td class="num">{{ "{:,}".format(t.bytes_up) }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% else %}<p>summary.json records no transfers.</p>{% endif %}
</section>
"""

_SITES = """
<section id="sites" aria-labelledby="sites-h">
<h2 id="sites-h">Sites and data</h2>
<div class="wide" role="region" tabindex="0" aria-label="Modalities by site">
<table><caption>What each site holds{{ " (synthetic data)" if run.synthetic }}.</caption>
<thead><tr><th scope="col">Site</th>
{% for m in modalities %}<th scope="col">{{ m }}</th>{% endfor %}
<th class="num" scope="col">Training examples</th></tr></thead>
<tbody>{% for site, held in run.data.sites.items() %}
<tr><th scope="row">{{ site }}</th>
{% for m in modalities %}
<td>{% if m in held.modalities %}<span class="tick" aria-hidden="true">&#10003;</span>
<span class="sr">yes</span>{% else %}<span class="na" aria-hidden="true">&ndash;</span>
<span class="sr">no</span>{% endif %}</td>
{% endfor %}
<td class="num">{{ "{:,}".format(held.examples.values() | sum) }}</td></tr>
{% endfor %}</tbody></table></div>
<div class="wide" role="region" tabindex="0" aria-label="Examples by task">
<table><caption>Examples of each task: training at the sites, and the server's own sets.</caption>
<thead><tr><th scope="col">Task</th>
{% for site in run.data.sites %}<th class="num" scope="col">{{ site }}</th>{% endfor %}
<th class="num" scope="col">public</th><th class="num" scope="col">validation</th>
<th class="num" scope="col">test</th></tr></thead>
<tbody>{% for task in site_tasks %}
<tr><th scope="row">{{ task | spaced }}</th>
{% for held in run.data.sites.values() %}
<td class="num">{{ held.examples.get(task, 0) or "&ndash;" | safe }}</td>{% endfor %}
{% for part in (run.data.public, run.data.validation, run.data.test) %}
<td class="num">{{ part.get(task, 0) or "&ndash;" | safe }}</td>{% endfor %}
</tr>{% endfor %}</tbody></table></div>
<h3>Left out</h3>
{% if run.left_out %}
<div class="wide" role="region" tabindex="0" aria-label="Sites left out">
<table><caption>Sites whose answer did not count in a round; round 0 is before the first.</caption>
<thead><tr><th scope="col">Round</th><th scope="col">Site</th><th scope="col">What</th>
<th scope="col">Reason</th></tr></thead>
<tbody>{% for l in run.left_out %}
<tr><td>{{ l.round }}</td><th scope="row">{{ l.site }}</th><td>{{ l.kind }}</td>
<td>{{ l.reason }}</td></tr>
{% endfor %}</tbody></table></div>
{% else %}<p>Every update that was asked for came back and counted.</p>{% endif %}
</section>
"""

_REST = """
<section id="cost" aria-labelledby="cost-h">
<h2 id="cost-h">Time and memory</h2>
{% if phases %}
<div class="wide" role="region" tabindex="0" aria-label="Time per phase">
<table><caption>Seconds per phase, over all rounds.</caption>
<thead><tr><th scope="col">Phase</th><th class="num" scope="col">Time</th>
<th scope="col" style="width:55%">Share</th></tr></thead>
<tbody>{% for name, seconds, share in phases %}
<tr><th scope="row">{{ name | spaced }}</th><td class="num">{{ seconds | duration }}</td>
<td><span class="bar" style="width:{{ "%.1f" | format(share * 100) }}%"></span>
<span class="sr">{{ (share * 100) | round | int }} %</span></td></tr>{% endfor %}</tbody>
{% if "total" in run.seconds %}
<tfoot><tr><th scope="row">total</th><td class="num">{{ run.seconds.total | duration }}</td>
<td></td></tr></tfoot>{% endif %}
</table></div>
{% endif %}
{% if run.peak_memory_bytes is not none %}
<p>Highest memory use: {{ run.peak_memory_bytes | amount }}.</p>{% endif %}
</section>
<section id="configuration" aria-labelledby="configuration-h">
<h2 id="configuration-h">Configuration</h2>
{% if config %}
<p>The same configuration and seed give the same results on the same machine.</p>
<details><summary>config.yaml</summary><pre tabindex="0">{{ config }}</pre></details>
{% else %}<p>config.yaml was not found in the run folder.</p>{% endif %}
</section>
<section id="reading" aria-labelledby="reading-h">
<h2 id="reading-h">How to read this page</h2>
<dl class="reading">
<dt>Trained and unseen tasks</dt>
<dd>For trained tasks the sites and the server's public set hold labels. Unseen tasks are answered
without any training example, from what the other tasks taught.</dd>
<dt>Before, extractor, injected</dt>
<dd>Before: the foundation model alone; it cannot see images, signals or tables, so yes/no tasks
should lie near 0.5. Extractor: encoders and heads trained at the sites; there is no head for an
unseen task. Injected: the foundation model that also sees what the encoders make of a patient.</dd>
<dt>AUROC</dt>
<dd>The chance that a patient whose answer is yes gets a higher score than one whose answer is no.
AUPRC, F1, accuracy, precision, recall and MCC stand under "All scores"; an answer counts as yes
when its log odds are above 0.</dd>
<dt>BLEU-1, ROUGE-L, METEOR, exact match</dt>
<dd>How far a generated answer and the true one share words, from 0 to 1. METEOR matches equal
words and stems, no synonyms; a lone right word scores 0.5 by its penalty for short matches.</dd>
<dt>95&nbsp;% interval</dt>
<dd>From resampling patients with replacement, all rows of a patient together. It covers the choice
of patients; it does not cover other seeds, sites or populations. No interval is shown where none
was computed.</dd>
<dt>n/a</dt>
<dd>The score cannot be computed; the note says why. It is never counted as 0.</dd>
</dl>
</section>
"""

TEMPLATE = (
    _HEAD
    + _MACROS
    + _ANSWER
    + "<main>"
    + _RESULTS
    + DIFFERENCES
    + _LEARNING
    + _GATE
    + BY_SITE
    + CALIBRATION
    + OPERATING
    + CONTROLS
    + _SENT
    + _SITES
    + _REST
    + "</main>\n</body>\n</html>\n"
)

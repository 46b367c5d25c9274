"""The page as a Jinja template. It is Python because a Flower bundle ships no HTML files."""

from fedkim_core.report.evidence_template import (
    BY_SITE,
    CALIBRATION,
    CONTROLS,
    DIFFERENCES,
    FOLLOWS,
    OPERATING,
)
from fedkim_core.report.model_templates import GATE, LEARNING
from fedkim_core.report.site_templates import SENT, SITES

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
{% if group_tables %}<li><a href="#by-group">By group</a></li>{% endif %}
{% if calibrations %}<li><a href="#calibration">Calibration</a></li>{% endif %}
{% if operating_rows %}<li><a href="#operating">Operating points</a></li>{% endif %}
{% if control_table %}<li><a href="#controls">Controls</a></li>{% endif %}
{% if followed %}<li><a href="#follows">Unseen tasks</a></li>{% endif %}
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
    _MACROS
    + _ANSWER
    + "<main>"
    + _RESULTS
    + DIFFERENCES
    + LEARNING
    + GATE
    + BY_SITE
    + CALIBRATION
    + OPERATING
    + CONTROLS
    + FOLLOWS
    + SENT
    + SITES
    + _REST
)

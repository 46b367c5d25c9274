"""The page of an experiment as a Jinja template; see fedkim_core/report/template.py."""

_ANSWER = """
<header>
<h1>{{ experiment.title }}</h1>
<p class="answer">{{ answer }}</p>
<p class="more">{{ details | join(" ") }}</p>
<ul class="tiles">
{% for figure, what in tiles %}
<li><b>{{ figure }}</b><span>{{ what }}</span></li>
{% endfor %}
</ul>
{% if experiment.about %}<p class="meta">{{ experiment.about }}</p>{% endif %}
<p class="meta">Experiment {{ experiment.name }}; {{ experiment.cells | length | plural("cell") }},
{{ seeds | length | plural("seed") }}; fedkim {{ experiment.fedkim }}.</p>
<nav aria-label="On this page"><ul>
<li><a href="#results">Results</a></li>
{% if by_task %}<li><a href="#by-task">By task</a></li>{% endif %}
{% if score_tables %}<li><a href="#scores">Scores</a></li>{% endif %}
{% if agreements %}<li><a href="#agreement">Agreement</a></li>{% endif %}
{% if gates %}<li><a href="#gate">Gate</a></li>{% endif %}
{% if verdicts %}<li><a href="#verdicts">Controls</a></li>{% endif %}
<li><a href="#runs">Runs</a></li>
{% if costs %}<li><a href="#cost">Cost</a></li>{% endif %}
<li><a href="#reading">How to read this page</a></li>
</ul></nav>
</header>
<main>
"""

_RESULTS = """
<section id="results" aria-labelledby="results-h">
<h2 id="results-h">
{%- if experiment.compare %}Compared with {{ experiment.compare }}, on the same patients
{%- else %}Mean scores{% endif %}</h2>
{% if figures %}
<p>AUROC of each row, mean over tasks and seeds, the best first{% if experiment.compare %}, and by
how much it lies above or below {{ experiment.compare }}. Two spreads are kept apart: the bar is
the 95&nbsp;% interval over patients, the small dots are the seeds. A difference is called clear
when p lies below 0.05 after correction for the number of comparisons, and every seed lies on the
same side{% endif %}.</p>
{% if experiment.compare %}
<ul class="legend">
<li>{{ key("injected", "diamond") }} clear difference</li>
<li>{{ key("injected", "ring") }} not clear</li>
</ul>
{% endif %}
{% for figure in figures %}
<h3 id="results-{{ figure.role }}">{{ figure.title }}</h3>
<div class="results paired">
<table role="table">
<caption>Mean AUROC, and the difference from {{ experiment.compare or "no row" }}
{{- " (synthetic data)" if synthetic }}.</caption>
<thead role="rowgroup"><tr role="row">
<th role="columnheader" scope="col">Row</th>
<th role="columnheader" scope="col">Mean AUROC</th>
<th role="columnheader" scope="col">Difference, over patients</th>
<th role="columnheader" scope="col">Over seeds</th>
<th role="columnheader" scope="col">p, corrected</th>
<th role="columnheader" scope="col" class="picture">{{ (0 - figure.half) | signed }} to
{{ figure.half | signed }}</th></tr></thead>
<tbody role="rowgroup">
{% for line in figure.lines %}
{% set c = line.compared %}
<tr role="row">
<th role="rowheader" scope="row">{{ line.score.row }}
{% if c and c.tasks < (figure.lines | map(attribute="compared") | select | map(attribute="tasks")
 | max) %}<span class="what">{{ c.tasks | plural("task") }} only</span>{% endif %}</th>
<td role="cell" class="score" data-label="Mean AUROC"><b>{{ line.score.value | number(3) }}</b></td>
{% if c %}
<td role="cell" class="score" data-label="Difference, over patients">
<b class="{{ "up" if c.sign > 0 else "down" if c.sign < 0 }}">{{ c.value | signed(3) }}</b>
{% if c.span %}<small>{{ c | interval(3) }}</small>{% endif %}</td>
<td role="cell" class="score" data-label="Over seeds">
{% if c.sd_seeds is not none %}&plusmn;&nbsp;{{ c.sd_seeds | number(3) }}
<small>same side in {{ c.alike }} of {{ c.each | length }}</small>
{% else %}<span class="na">one seed</span>{% endif %}</td>
<td role="cell" class="score" data-label="p, corrected">
{% if c.p_holm is not none %}{{ c.p_holm | p_value }}
<small>{{ "clear" if c.sign else "not clear" }}</small>
{% else %}<span class="na">n/a</span>{% endif %}</td>
<td role="cell" class="picture">{{ line.picture }}</td>
{% else %}
<td role="cell" colspan="4" class="soft">
{% if line.score.row == experiment.compare %}the others are compared with it
{% elif experiment.compare %}nothing in common with {{ experiment.compare }} yet
{% else %}nothing to compare with{% endif %}</td>
{% endif %}
</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% else %}
<p>No run is done yet.</p>
{% endif %}
</section>
"""

_TASK_TABLE = """
{% macro task_table(table, label) %}
<div class="wide" role="region" tabindex="0" aria-label="{{ label }}">
<table class="pinned">
<caption>{{ table.title }}{{ " (synthetic data)" if synthetic }}.</caption>
<thead><tr><th scope="col">Row</th>
{% for task in table.tasks %}<th scope="col">{{ task | spaced }}</th>{% endfor %}</tr></thead>
<tbody>{% for row, cells in table.rows.items() %}
<tr><th scope="row">{{ row }}</th>
{% for task in table.tasks %}
{% set cell = cells.get(task) %}
<td class="score">{% if cell %}{{ caller(cell) }}
{% else %}<span class="na">n/a</span>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endmacro %}
"""
"""A line per row and a column per task; its caller draws a cell."""

_BY_TASK = """
{% if by_task %}
<section id="by-task" aria-labelledby="by-task-h">
<h2 id="by-task-h">By task</h2>
<p>AUROC of each row minus that of {{ experiment.compare }}, task by task, with its 95&nbsp;%
interval over patients. Coloured and marked with a star: clear after correction for all
{{ single_tasks | plural("comparison") }} of single tasks.</p>
{% for table in by_task %}
{% call(c) task_table(table, "Differences, " ~ table.title | lower) %}
<b class="{{ "up" if c.sign > 0 else "down" if c.sign < 0 }}">{{ c.value | signed(3) }}
{{- "*" if c.sign }}</b>
{% if c.span %}<small>{{ c | interval(3) }}</small>{% endif %}
{% endcall %}
{% endfor %}
</section>
{% endif %}
"""

_SCORES = """
{% if score_tables %}
<section id="scores" aria-labelledby="scores-h">
<h2 id="scores-h">Scores</h2>
<p>The leading score of each row: mean over seeds, their standard deviation, and below it the
95&nbsp;% interval over patients that a single run has.</p>
{% for table in score_tables %}
{% call(s) task_table(table, "Scores, " ~ table.title) %}
<b>{{ s.value | number(3) }}</b>
{% if s.sd_seeds is not none %}<small>&plusmn; {{ s.sd_seeds | number(3) }} over
{{ s.each | length }} seeds</small>{% endif %}
{% if s.span %}<small>{{ s | interval(3) }}</small>{% endif %}
{% endcall %}
{% endfor %}
</section>
{% endif %}
"""

_PLAIN = """
{% macro plain(id, table) %}
<section id="{{ id }}" aria-labelledby="{{ id }}-h">
<h2 id="{{ id }}-h">{{ table.title }}</h2>
<p>{{ table.note }}</p>
<div class="wide" role="region" tabindex="0" aria-label="{{ table.title }}">
<table class="pinned"><caption>{{ table.title }}{{ " (synthetic data)" if synthetic }}.</caption>
<thead><tr><th scope="col">Cell</th>
{% for name in table.header[1:] %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}
<tr><th scope="row">{{ row[0] }}</th>
{% for cell in row[1:] %}<td>{{ cell or ('<span class="na">n/a</span>' | safe) }}</td>{% endfor %}
</tr>
{% endfor %}</tbody></table></div>
</section>
{% endmacro %}
{% if agreements %}{{ plain("agreement", agreements) }}{% endif %}
{% if gates %}{{ plain("gate", gates) }}{% endif %}
{% if verdicts %}{{ plain("verdicts", verdicts) }}{% endif %}
"""
"""Tables that are texts already."""

_RUNS = """
<section id="runs" aria-labelledby="runs-h">
<h2 id="runs-h">Runs</h2>
{% if failed %}
<h3>Failed</h3>
<div class="wide" role="region" tabindex="0" aria-label="Runs that failed">
<table><caption>Why runs failed; the same command tries them again.</caption>
<thead><tr><th scope="col">Cell</th><th class="num" scope="col">Seed</th>
<th scope="col">Reason</th></tr></thead>
<tbody>{% for run in failed %}
<tr id="failed-{{ loop.index }}"><th scope="row">{{ run.cell }}</th>
<td class="num">{{ run.seed }}</td>
<td>{{ run.reason }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
<div class="wide" role="region" tabindex="0" aria-label="Runs by cell and seed">
<table class="pinned"><caption>What has become of each run.</caption>
<thead><tr><th scope="col">Cell</th>
{% for seed in seeds %}<th scope="col">seed {{ seed }}</th>{% endfor %}</tr></thead>
<tbody>{% for cell in experiment.cells %}
<tr><th scope="row">{{ cell }}</th>
{% for seed in seeds %}
{% set run = runs.get((cell, seed)) %}
<td>{% if not run %}<span class="na">&ndash;</span>
{% elif run.state == "done" %}<span class="tick" aria-hidden="true">&#10003;</span> done
{% elif run.state == "failed" %}
<a class="down" href="#failed-{{ failed.index(run) + 1 }}">failed</a>
{% else %}<span class="na">to run</span>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<details><summary>Settings of the cells</summary>
<dl class="reading">{% for cell, overrides in experiment.cells.items() %}
<dt>{{ cell }}</dt><dd>{{ overrides | join(" ") or "the defaults" }}</dd>
{% endfor %}</dl></details>
</section>
"""

_COST = """
{% if costs %}
<section id="cost" aria-labelledby="cost-h">
<h2 id="cost-h">Cost</h2>
<div class="wide" role="region" tabindex="0" aria-label="Cost by cell">
<table><caption>Per run, mean over seeds. A run that shared another&rsquo;s federation did not spend
the seconds of its training.</caption>
<thead><tr><th scope="col">Cell</th><th class="num" scope="col">Runs</th>
<th class="num" scope="col">Time</th><th scope="col" style="width:30%">Beside the dearest</th>
<th class="num" scope="col">To and from sites</th>
<th class="num" scope="col">Federation shared</th></tr></thead>
<tbody>{% for cost in costs %}
<tr><th scope="row">{{ cost.cell }}</th><td class="num">{{ cost.runs }}</td>
<td class="num">{{ cost.seconds | duration }}</td>
<td><span class="bar" style="width:{{ "%.1f" | format(cost.share * 100) }}%"></span>
<span class="sr">{{ (cost.share * 100) | round | int }} %</span></td>
<td class="num">{{ cost.sent }}</td>
<td class="num">{{ cost.replayed or "&ndash;" | safe }}</td></tr>
{% endfor %}</tbody></table></div>
</section>
{% endif %}
"""

_READING = """
<section id="reading" aria-labelledby="reading-h">
<h2 id="reading-h">How to read this page</h2>
<dl class="reading">
<dt>Row and cell</dt>
<dd>A cell is one choice of settings, and a run of it for every seed. A row is what the tables
compare: one model of one cell, or of several cells that together are one method.</dd>
<dt>Trained and unseen tasks</dt>
<dd>For trained tasks the sites and the server&rsquo;s public set hold labels; nobody trains on
unseen tasks, unless a cell says otherwise (few shot).</dd>
<dt>Over patients</dt>
<dd>How much the figure would change with other test patients: DeLong&rsquo;s test, in which a
patient&rsquo;s placement values are added up over rows, tasks and seeds. More seeds do not make it
smaller. Only questions that both rows answered count, with the seeds that both have.</dd>
<dt>Over seeds</dt>
<dd>How much it changes when everything is done again with another seed: the standard deviation
between seeds. With synthetic data a seed makes other patients too. With one seed nothing is known
about it.</dd>
<dt>Correction</dt>
<dd>p-values are corrected by Holm&rsquo;s method for the number of comparisons: the means that the
answer rests on among themselves, the single tasks among themselves. The best of many rows looks
better than it is; read its interval with that in mind.</dd>
</dl>
</section>
"""

TEMPLATE = _TASK_TABLE + _ANSWER + _RESULTS + _BY_TASK + _SCORES + _PLAIN + _RUNS + _COST + _READING

"""The sections of the page that say how sure the results are."""

DIFFERENCES = """
{% macro difference(d) %}
{% if d %}
<b class="{{ "up" if d.sign > 0 else "down" if d.sign < 0 }}">{{ d.value | signed }}</b>
{% if d.span %}<small>{{ d | interval }}</small>{% endif %}
{% else %}<span class="na">n/a</span>{% endif %}
{% endmacro %}
{% macro chance_of(d) %}
{% if d and d.p is not none %}{{ d.p | p_value }}
{% if d.p_holm is not none %}<small>Holm {{ d.p_holm | p_value }}</small>{% endif %}
{% else %}<span class="na">n/a</span>{% endif %}
{% endmacro %}
{% if compared %}
<section id="sure" aria-labelledby="sure-h">
<h2 id="sure-h">How sure the differences are</h2>
<p>Both models answer the same questions about the same patients, so they are compared patient by
patient: AUROC by DeLong&rsquo;s test, other scores by a bootstrap over patients. A difference is
called clear when its p-value, corrected after Holm for the number of tasks, lies below 0.05.</p>
<div class="wide" role="region" tabindex="0" aria-label="Paired differences">
<table class="pinned">
<caption>Injected minus the other model, leading score, 95&nbsp;% interval
{{- " (synthetic data)" if run.synthetic }}.</caption>
<thead><tr><th scope="col">Task</th>
<th scope="col">Injected &minus; before</th><th scope="col">p</th>
<th scope="col">Injected &minus; extractor</th><th scope="col">p</th>
<th class="num" scope="col">Agreement</th></tr></thead>
<tbody>{% for row in compared %}
<tr><th scope="row">{{ row.task | spaced }}<span class="what">{{ row.metric }}</span></th>
<td class="score">{{ difference(row.before) }}</td>
<td class="score">{{ chance_of(row.before) }}</td>
<td class="score">{{ difference(row.extractor) }}</td>
<td class="score">{{ chance_of(row.extractor) }}</td>
<td class="num">{% if row.agreement is not none %}{{ row.agreement | signed }}
{% else %}<span class="na">n/a</span>{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
<p class="soft">Agreement: rank correlation between what the injected model and the head
of the extractor say of the same patients, 1 where they rank them alike. Without one (unseen
tasks) there is nothing to compare with: n/a.</p>
</section>
{% endif %}
"""

BY_SITE = """
{% macro widest(table) %}
{% if table.widest %}
{% set task, own = table.widest %}
The widest gap is in {{ task | spaced }}: {{ own.lowest }} is lowest with
{{ own.sites[own.lowest].value | number }}, {{ own.gap | number }} below the highest.
{% endif %}
{% endmacro %}
{% macro scores_by(table, what) %}
<div class="wide" role="region" tabindex="0" aria-label="Leading score by task and {{ what }}">
<table class="pinned">
<caption>Leading score by {{ what }}, 95&nbsp;% interval, test examples
{{- " (synthetic data)" if run.synthetic }}.</caption>
<thead><tr><th scope="col">Task</th>
{% for site in table.sites %}<th scope="col">{{ site }}</th>{% endfor %}
<th class="num" scope="col">Gap</th></tr></thead>
<tbody>{% for task, metric, own in table.rows %}
<tr><th scope="row">{{ task | spaced }}<span class="what">{{ metric }}</span></th>
{% for site in table.sites %}
{% set e = own.sites.get(site) %}
<td class="score">{% if e %}
<b>{{ e.value | number }}</b>
{% if site == own.lowest %}<small class="mark">lowest</small>{% endif %}
{% if e.span %}<small>{{ e | interval }}</small>{% endif %}<small>n = {{ e.n }}</small>
{% elif site in own.left_out %}
<span class="na" title="{{ own.left_out[site] }}">n/a</span>
<small class="wrap">{{ own.left_out[site] }}</small>
{% else %}<span class="na">&ndash;</span>{% endif %}</td>
{% endfor %}
<td class="num">{% if own.gap is not none %}{{ own.gap | number }}{% else %}
<span class="na">n/a</span>{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
{% endmacro %}
{% if site_table %}
<section id="by-site" aria-labelledby="by-site-h">
<h2 id="by-site-h">By site</h2>
<p>The injected model on test patients by the site whose patients they resemble.
{{ widest(site_table) }}
With few patients a site, some gap is to be expected by chance: look at the intervals.</p>
{{ scores_by(site_table, "site") }}
</section>
{% endif %}
{% if group_tables %}
<section id="by-group" aria-labelledby="by-group-h">
<h2 id="by-group-h">By group of patients</h2>
<p>The injected model on test patients by sex and by age. Groups with fewer than ten patients of
either answer are not shown.</p>
{% for name, table in group_tables %}
<h3>By {{ name | spaced }}</h3>
<p>{{ widest(table) }}</p>
{{ scores_by(table, name | spaced) }}
{% endfor %}
</section>
{% endif %}
"""

CALIBRATION = """
{% if calibrations %}
<section id="calibration" aria-labelledby="calibration-h">
<h2 id="calibration-h">Calibration</h2>
<p>Whether a probability can be believed: of 100 patients for whom the model says 80&nbsp;%, 80
should have the answer yes (the dotted line). Each point is about a tenth of the examples; bars are
95&nbsp;% intervals.</p>
<ul class="legend">
<li>{{ forest_key("extractor") }} Extractor</li><li>{{ forest_key("injected") }} Injected</li>
</ul>
<div class="small-multiples tight">
{% for name, task, picture in calibrations %}
<figure><figcaption><b>{{ name | spaced }}</b> share of yes</figcaption>{{ picture }}</figure>
{% endfor %}
</div>
<details><summary>Calibration in numbers</summary>
<div class="wide" role="region" tabindex="0" aria-label="Calibration in numbers">
<table class="pinned">
<caption>Brier score: mean squared error of the probability, lower is better. ECE: mean
distance from the dotted line, in ten bins of equal mass or equal width. Slope 1 and intercept 0 are
perfect; a slope below 1 is too sure.</caption>
<thead><tr><th scope="col">Task</th><th scope="col">Model</th><th scope="col">Brier</th>
<th class="num" scope="col">ECE, mass</th><th class="num" scope="col">ECE, width</th>
<th scope="col">Slope</th><th scope="col">Intercept</th></tr></thead>
<tbody>{% for name, column, c in calibration_rows %}
<tr><th scope="row">{{ name | spaced }}</th><td>{{ column_names[column] }}</td>
<td class="score"><b>{{ c.brier.value | number }}</b>
{% if c.brier.span %}<small>{{ c.brier | interval }}</small>{% endif %}</td>
<td class="num">{{ c.ece_equal_mass | number }}</td>
<td class="num">{{ c.ece_equal_width | number }}</td>
{% for key, e in (("slope", c.slope), ("intercept", c.intercept)) %}
<td class="score">{% if e %}<b>{{ e.value | number }}</b>
{% if e.span %}<small>{{ e | interval }}</small>{% endif %}
{% else %}<span class="na">n/a</span>
<small class="wrap">{{ c.absent.get(key, "not in summary.json") }}</small>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div></details>
</section>
{% endif %}
"""

OPERATING = """
{% if operating_rows %}
<section id="operating" aria-labelledby="operating-h">
<h2 id="operating-h">Operating points</h2>
<p>How many patients with the answer yes are found when at most 10 or 5 in 100 of the others are
flagged wrongly, and the reverse. The threshold is chosen on these same patients, so one that was
fixed beforehand will do a little worse.</p>
<div class="wide" role="region" tabindex="0" aria-label="Operating points">
<table class="pinned">
<caption>Value and 95&nbsp;% interval{{ " (synthetic data)" if run.synthetic }}.</caption>
<thead><tr><th scope="col">Task</th><th scope="col">Model</th>
{% for title in operating_names.values() %}<th scope="col">{{ title }}</th>{% endfor %}
</tr></thead>
<tbody>{% for name, column, points in operating_rows %}
<tr><th scope="row">{{ name | spaced }}</th><td>{{ column_names[column] }}</td>
{% for key in operating_names %}
{% set e = points.get(key) %}
<td class="score">{% if e %}<b>{{ e.value | number }}</b>
{% if e.span %}<small>{{ e | interval }}</small>{% endif %}
{% else %}<span class="na">n/a</span>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
</section>
{% endif %}
"""

CONTROLS = """
{% if control_table %}
<section id="controls" aria-labelledby="controls-h">
<h2 id="controls-h">Controls that could prove it wrong</h2>
<p>The injected model is asked again with one thing spoilt. If its gain comes from patients&rsquo;
data, it must fall when each patient gets another&rsquo;s data. A gain that survives is a language
prior: the model learned how answers are worded, not what the data show.</p>
<div class="wide" role="region" tabindex="0" aria-label="Controls">
<table class="pinned">
<caption>Leading score, value and 95&nbsp;% interval
{{- " (synthetic data)" if run.synthetic }}.</caption>
<thead><tr><th scope="col">Task</th><th scope="col">Verdict</th><th scope="col">Before</th>
<th scope="col">Injected</th>
{% for name in control_table.names %}
<th scope="col">{{ control_names.get(name, name | spaced) }}</th>{% endfor %}</tr></thead>
<tbody>{% for name, task in control_table.rows %}
<tr><th scope="row">{{ name | spaced }}<span class="what">
{{- metric_names[task.metrics[0]] }}</span></th>
<td>{% if task.language_prior %}
{% if task.language_prior.flagged %}<b class="down">{{ task.language_prior.verdict }}</b>
{% else %}{{ task.language_prior.verdict }}{% endif %}
{% if task.language_prior.share is not none %}
<span class="what">{{ (task.language_prior.share * 100) | round | int }} % of the gain
left</span>{% endif %}
{% else %}<span class="na">n/a</span>{% endif %}</td>
{% for e in [task.estimate("before"), task.estimate("injected")] +
 (control_table.names | map("control_of", task) | list) %}
<td class="score">{% if e %}<b>{{ e.value | number }}</b>
{% if e.span %}<small>{{ e | interval }}</small>{% endif %}
{% else %}<span class="na">n/a</span>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
</section>
{% endif %}
"""

FOLLOWS = """
{% if followed %}
<section id="follows" aria-labelledby="follows-h">
<h2 id="follows-h">What answers about unseen tasks follow</h2>
<p>Nobody trained the model on these tasks. Beside each stands the trained task whose own head ranks
the same patients most nearly as these answers do, and what that head alone would score here. Where
the two scores are alike, the answers pass the head&rsquo;s opinion on: the two tasks go together in
these patients, which is not the same as knowing the unseen one.</p>
<div class="wide" role="region" tabindex="0" aria-label="What answers about unseen tasks follow">
<table class="pinned">
<caption>Rank correlation of the answers with the head&rsquo;s; AUROC on the unseen task, value and
95&nbsp;% interval{{ " (synthetic data)" if run.synthetic }}.</caption>
<thead><tr><th scope="col">Unseen task</th><th scope="col">Follows</th>
<th class="num" scope="col">Correlation</th><th scope="col">That head&rsquo;s AUROC</th>
<th scope="col">Injected &minus; head</th><th scope="col">p</th></tr></thead>
<tbody>{% for name, f in followed %}
<tr><th scope="row">{{ name | spaced }}<span class="what">n = {{ f.n }}</span></th>
<td>{{ f.task | spaced }}</td><td class="num">{{ f.correlation | signed }}</td>
<td class="score"><b>{{ f.auroc.value | number }}</b>
{% if f.auroc.span %}<small>{{ f.auroc | interval }}</small>{% endif %}</td>
<td class="score">{{ difference(f.difference) }}</td>
<td class="score">{{ chance_of(f.difference) }}</td></tr>
{% endfor %}</tbody></table></div>
</section>
{% endif %}
"""

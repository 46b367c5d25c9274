"""The sections of the page about training: its curves, and the gate."""

LEARNING = """
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

GATE = """
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

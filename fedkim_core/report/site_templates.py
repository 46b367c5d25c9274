"""The sections of the page about the sites: what they sent, what they hold."""

SENT = """
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

SITES = """
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

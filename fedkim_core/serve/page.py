"""The page of ``fedkim serve``. It is Python because a Flower bundle ships no HTML files."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2330; --paper: #fff; --soft: #5b6675; --line: #d5dbe3;
  --wash: #f4f6f9; --accent: #1f5fa8; --warn: #7a4b00; --warn-wash: #fff4dc; --bad: #a32020; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf2; --paper: #14181f; --soft: #a3aebd;
  --line: #333c49; --wash: #1c222b; --accent: #7db3f0; --warn: #ffd591; --warn-wash: #33280f;
  --bad: #ff9d9d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0.5rem 0; }
.banner { padding: 0.6rem 0.9rem; margin: 0 0 0.8rem; border-left: 4px solid var(--warn);
  background: var(--warn-wash); color: var(--warn); }
.banner p { margin: 0; }
fieldset { border: 1px solid var(--line); border-radius: 6px; margin: 0 0 1rem; padding: 0.8rem; }
legend { font-weight: 600; padding: 0 0.4rem; }
label { display: block; margin: 0.6rem 0 0.2rem; font-weight: 600; }
label small, .hint { color: var(--soft); font-weight: 400; }
select, input, textarea, button { font: inherit; color: inherit; width: 100%; padding: 0.45rem;
  border: 1px solid var(--line); border-radius: 5px; background: var(--wash); }
button { width: auto; padding: 0.5rem 1.4rem; background: var(--accent); color: var(--paper);
  border: 0; font-weight: 600; cursor: pointer; }
button:disabled { opacity: 0.5; cursor: wait; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
#reply { border: 1px solid var(--line); border-radius: 6px; padding: 0.2rem 0.9rem 0.8rem; }
#reply h2 { font-size: 1.6rem; margin: 0.5rem 0 0.2rem; }
.bar { height: 0.7rem; background: var(--wash); border: 1px solid var(--line); border-radius: 4px; }
.bar div { height: 100%; background: var(--accent); border-radius: 3px; }
#fault { color: var(--bad); font-weight: 600; }
[hidden] { display: none; }
@media print { form { display: none; } }
"""

_SCRIPT = """
const byId = id => document.getElementById(id);
const kinds = { image: 'image', signal: 'signal', vitals: 'tables', labs: 'tables',
  inputs: 'tables', outputs: 'tables' };
let tasks = [];

function line(tag, text, parent) {
  const made = document.createElement(tag);
  made.textContent = text;  // never HTML: an answer is text
  parent.append(made);
  return made;
}

function shown() {
  const task = tasks.find(one => one.name === byId('task').value);
  const files = new Set(task.readable.map(name => kinds[name] || name));
  for (const kind of ['image', 'signal', 'tables'])
    byId('field-' + kind).hidden = !files.has(kind);
  byId('field-note').hidden = !task.modalities.includes('text');
  byId('question').placeholder = task.question;
  byId('about').textContent = task.description + (task.readable.length ? ' Reads: '
    + task.readable.join(', ') + '.' : ' This run has no encoder for it.');
}

function base64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(',') + 1));
    reader.onerror = () => failed(new Error('a file cannot be read'));
    reader.readAsDataURL(file);
  });
}

async function study() {
  const body = { task: byId('task').value };
  const open = kind => !byId('field-' + kind).hidden;
  const suffix = file => file.name.split('.').pop().toLowerCase();
  const image = byId('image').files[0], tables = byId('tables').files[0];
  if (open('image') && image) body.image = { format: suffix(image), data: await base64(image) };
  if (open('tables') && tables)
    body.tables = { format: suffix(tables), data: await base64(tables) };
  if (open('signal') && byId('signal').files.length) {
    const parts = {};
    for (const file of byId('signal').files) parts[suffix(file)] = await base64(file);
    if (!parts.hea || !parts.dat) throw new Error('choose the .hea and the .dat file together');
    body.signal = { header: parts.hea, data: parts.dat };
  }
  if (open('note') && byId('note').value.trim()) body.note = byId('note').value.trim();
  if (byId('question').value.trim()) body.question = byId('question').value.trim();
  return body;
}

function reason(detail) {
  if (typeof detail === 'string') return detail;
  return detail.map(one => one.loc.slice(1).join('.') + ': ' + one.msg).join('; ');
}

function show(reply) {
  const box = byId('reply');
  box.replaceChildren();
  line('p', reply.question, box);
  line('h2', reply.answer || '(no answer)', box);
  if (reply.probability !== null) {
    const percent = (100 * reply.probability).toFixed(1) + ' %';
    line('p', 'Probability of yes: ' + percent, box);
    const bar = line('div', '', box);
    bar.className = 'bar';
    bar.setAttribute('role', 'img');
    bar.setAttribute('aria-label', percent);
    line('div', '', bar).style.width = percent.replace(' ', '');
  }
  line('p', 'Read: ' + reply.given.join(', ') + '. Not given: '
    + (reply.lacking.join(', ') || 'nothing') + '.', box);
  line('p', 'Calibration: ' + reply.calibration, box);
  const list = line('ul', '', box);
  for (const note of reply.notes) line('li', note, list);
  box.hidden = false;
  box.focus();
}

async function ask(event) {
  event.preventDefault();
  byId('fault').textContent = '';
  byId('reply').hidden = true;
  byId('send').disabled = true;
  try {
    const response = await fetch('ask', { method: 'POST',
      headers: { 'content-type': 'application/json' }, body: JSON.stringify(await study()) });
    const answer = await response.json();
    if (response.ok) show(answer); else throw new Error(reason(answer.detail));
  } catch (error) {
    byId('fault').textContent = error.message;
  } finally {
    byId('send').disabled = false;
  }
}

async function begin() {
  const health = await (await fetch('health')).json();
  byId('synthetic').hidden = health.synthetic !== true;
  byId('unknown').hidden = health.synthetic !== null;
  tasks = await (await fetch('tasks')).json();
  for (const task of tasks) {
    const option = line('option', task.name.replaceAll('_', ' '), byId('task'));
    option.value = task.name;
  }
  byId('task').addEventListener('change', shown);
  byId('form').addEventListener('submit', ask);
  shown();
  byId('send').disabled = false;
}

begin().catch(() => { byId('fault').textContent = 'The server does not answer.'; });
"""

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedkim: ask about one patient</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Ask about one patient</h1>
<div class="banner" role="note">
<p>Research software, not a medical device. Do not decide on anybody's care by it.</p>
<p id="synthetic" hidden><b>Trained on synthetic patients.</b> It says nothing about real ones.</p>
<p id="unknown" hidden>Whether it was trained on synthetic or real patients is unknown.</p>
</div>
<form id="form">
<fieldset>
<legend>Question</legend>
<label for="task">Task</label>
<select id="task"></select>
<p id="about" class="hint"></p>
<label for="question">Question <small>(empty: the task's own)</small></label>
<input id="question" maxlength="2000" autocomplete="off">
</fieldset>
<fieldset>
<legend>Study</legend>
<div id="field-image"><label for="image">Radiograph <small>(PNG or DICOM)</small></label>
<input id="image" type="file" accept=".png,.dcm"></div>
<div id="field-signal"><label for="signal">Electrocardiogram
<small>(WFDB: .hea and .dat together)</small></label>
<input id="signal" type="file" accept=".hea,.dat" multiple></div>
<div id="field-tables"><label for="tables">Clinical tables of one stay
<small>(csv or parquet: hour, modality, variable, value, unit)</small></label>
<input id="tables" type="file" accept=".csv,.parquet"></div>
<div id="field-note"><label for="note">Note <small>(short, without names)</small></label>
<textarea id="note" rows="3" maxlength="2000"></textarea></div>
</fieldset>
<button id="send" disabled>Ask</button>
<p id="fault" role="alert"></p>
</form>
<section id="reply" tabindex="-1" aria-live="polite" hidden></section>
<noscript><p>This page needs JavaScript.</p></noscript>
<script>{_SCRIPT}</script>
</body>
</html>
"""

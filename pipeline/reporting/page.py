"""The report's page: its template (jinja2), style and script. They are Python so that they are part of the code's fingerprint.

The page may load nothing: its own policy forbids it. Without the script everything can be read; it adds what a mark says
when it is touched, opens what a link leads to, and filters.
"""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>When should a language model first see images? (preset {{ settings.preset }})</title>
<link rel="icon" href="data:,">
<style>{{ style }}</style>
</head>
<body>
{% macro number(value) %}
{% if value.link %}<a class="n" href="{{ value.link }}">{{ value.text }}</a>{% else %}{{ value.text }}{% endif %}
{% if value.more %} <small>{{ value.more }}</small>{% endif %}
{% endmacro %}
{% macro img(picture, alt) %}
<img src="{{ picture.address }}" width="{{ picture.width }}" height="{{ picture.height }}" alt="{{ alt }}">
{%- endmacro %}
{% macro grid(table) %}
<figure class="table" id="table-{{ table.name }}">
<figcaption>{% if table.name != 'comparison' %}<h3>{{ table.title }}</h3>{% endif %}{% if table.note %}<p>{{ table.note }}</p>{% endif %}</figcaption>
{% if table.rows %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ table.title }}"><table>
<thead><tr>{% for name in table.header %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for value in row %}<{{ "th scope=row" if loop.first else "td" }}{{ " class=short" if loop.first and value.text|length < 28 }}>{{ number(value) }}</{{ "th" if loop.first else "td" }}>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% else %}<p class="none">Not run.</p>{% endif %}
<p class="made">Data: {% for file in table.files %}<code>{{ file }}</code>{% if not loop.last %}, {% endif %}{% endfor %}</p>
</figure>
{% endmacro %}
{% macro figure(figure) %}
<figure class="figure" id="figure-{{ figure.name }}">
<figcaption><h3>{{ figure.title }}</h3><p>{{ figure.note }}</p></figcaption>
{% if figure.panels %}
<div class="panels{{ ' wide' if figure.panels|length == 1 and figure.legend }}">
{% for title, chart in figure.panels %}<div class="panel">{% if title %}<h4>{{ title }}</h4>{% endif %}{{ chart }}</div>
{% endfor %}
</div>{{ figure.legend }}
{% endif %}
{% if figure.more %}
<details><summary>Every other measure ({{ figure.more|length }})</summary><div class="panels">
{% for title, chart in figure.more %}<div class="panel"><h4>{{ title }}</h4>{{ chart }}</div>
{% endfor %}
</div></details>
{% endif %}
<p class="made">Data: {% for file in figure.files %}<code>{{ file }}</code>{% endfor %}</p>
</figure>
{% endmacro %}
<header>
<p class="kicker">preset <b>{{ settings.preset }}</b>, {{ settings.split }} split</p>
<h1>When should a language model first see images?</h1>
<p class="lead">The usual way trains a language model on text to the end and adds images afterwards. Here a text run is left at
several points; from each, images come in while the optimizer and the learning rate go on; every model is then fine-tuned on
visual instructions and asked the same questions. {{ answer }}</p>
<nav aria-label="Contents"><a href="#verdicts">Verdicts</a> <a href="#figures">Figures</a> <a href="#tables">Tables</a>
<a href="#paper">Beside the paper</a> <a href="#examples">Examples</a> <a href="#learning">Learning</a> <a href="#cost">Cost</a>
<a href="#lineage">Lineage</a> <a href="#made">How it was made</a></nav>
</header>
<main>

<section id="verdicts"><h2>Verdicts</h2>
{% for rule in rules %}{{ rule }}
{% endfor %}
<p>Bars are 95% intervals; a diamond is the paper's effect. Each claim names the models that it compares.</p>
<ul class="counts">{% for verdict, kind, count in verdicts if count %}
<li><button type="button" class="badge {{ kind }}" data-verdict="{{ kind }}" aria-pressed="false">{{ count }} {{ verdict.replace('_', ' ') }}</button></li>
{% endfor %}</ul>
{% for family, title in (("primary", "The paper's findings"), ("control", "Controls that the paper lacks")) %}
<h3>{{ title }}</h3>
<ol class="claims">
{% for claim in claims if claim.family == family %}
<li class="claim" id="claim-{{ claim.name }}" data-kind="{{ claim.kind }}">
<p class="says"><span class="badge {{ claim.kind }}">{{ claim.verdict.replace('_', ' ') }}</span> {{ claim.says }}</p>
<p class="source">{{ claim.source }}{% if claim.published %}; the paper: <b>{{ claim.published }}</b>{% endif %}\
{% if claim.facts %}. Here: {{ claim.facts }}{% endif %}</p>
{% for part in claim.parts %}
<div class="part"><p class="compares">{{ part.compares }}{% if part.verdict %} <i>({{ part.verdict }})</i>{% endif %}\
{% if part.power %}<br><span class="power">{{ part.power }}</span>{% endif %}</p>
{% if part.effect %}<p class="effect"><b>{{ part.effect }}</b> {{ part.unit }} <small>{{ part.interval }}</small></p>{{ part.chart }}{% endif %}</div>
{% endfor %}
{% if claim.reason or claim.note %}<details><summary>Why</summary><p>{{ claim.reason }} {{ claim.note }}</p></details>{% endif %}
</li>
{% endfor %}
</ol>
{% endfor %}
<p class="made">Data: <code>claims.csv</code>, <code>claims.md</code></p>
</section>

<section id="figures"><h2>Figures</h2>
<p>Point at a mark (or tap it) for its value; follow it to what it comes from. Scores are points: percent correct, for the
stable scores less chance; bits per byte and CIDEr-D are in their own units.</p>
{% for item in figures %}{{ figure(item) }}{% endfor %}
</section>

<section id="tables"><h2>Tables</h2>
<p>Points (bits per byte and CIDEr-D in their own units) with 95% intervals: over the questions asked where there is one seed, over seeds too where there are more. Every
number leads to the runs that it comes from.{% if stands_for %} The vision tasks have the paper's benchmarks' formats and scorers,
not their images: {% for name, other in stands_for.items() %}{{ name.replace('_', ' ') }} is {{ other }}'s{% if not loop.last %}, {% endif %}{% endfor %}.{% endif %}</p>
{% for item in grids %}{{ grid(item) }}{% endfor %}
</section>

<section id="paper"><h2>{{ paper.title }}</h2>{{ grid(paper) }}</section>

<section id="examples"><h2>Examples</h2>
<p>Answers of <a href="#cell-recipe">the recommended model</a>, right and wrong, chosen by the hash of their ids, not by hand.
Boxes: solid the right one, dashed the model's.</p>
{% for task, items in examples %}
<h3>{{ task }}</h3>
<div class="examples">
{% for item in items %}
<figure class="example {{ 'right' if item.right else 'wrong' }}">
<div class="picture">{{ img(item.image, item.question) }}
{% if item.boxes %}<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{% for kind, x1, y1, x2, y2 in item.boxes %}
<rect class="{{ kind }}" x="{{ x1 }}" y="{{ y1 }}" width="{{ [x2 - x1, 0]|max }}" height="{{ [y2 - y1, 0]|max }}"/>{% endfor %}</svg>{% endif %}</div>
<figcaption><p class="question">{{ item.question }}</p><p>right answer: <b>{{ item.answer }}</b></p>
<p class="given">{{ "✓" if item.right else "✗" }} model: <b>{{ item.prediction }}</b></p></figcaption>
</figure>
{% endfor %}
</div>
{% endfor %}
{% if sheet %}<p>The images themselves are artifacts, which are not beside these results; this is their contact sheet.</p>
<div class="paper-white">{{ img(sheet, "Images with questions, right answers and the model's") }}</div>{% endif %}
{% if not examples and not sheet %}<p class="none">There are no answers to show.</p>{% endif %}
<p class="made">Data: <code>figures/examples.csv</code></p>
</section>

<section id="learning"><h2>Learning</h2>
{% if losses %}{{ figure(losses) }}{% endif %}
{% if schedules %}{{ figure(schedules) }}{% endif %}
</section>

<section id="cost"><h2>Cost</h2>
<p>Training FLOPs, forward and backward, from the shapes and tokens of each run; the frozen encoder's are not in them.</p>
<div class="bars">
{% for cost in costs %}
<div class="cost"><span class="name">{{ cost.name }}</span><span class="bar">{% for name, text, share in cost.parts %}\
<i class="s{{ loop.index0 }}" style="width:{{ '%.2f'|format(share) }}%" data-tip="{{ name }}: {{ text }} FLOPs" title="{{ name }}: {{ text }} FLOPs"></i>{% endfor %}</span>\
<span class="total">{% if cost.link %}<a class="n" href="{{ cost.link }}">{{ cost.total }}</a>{% else %}{{ cost.total }}{% endif %}</span>
<small>{% for name, text, share in cost.parts %}{{ name }} {{ text }}{% if not loop.last %}, {% endif %}{% endfor %}</small></div>
{% else %}<p class="none">No run has a cost here.</p>
{% endfor %}
</div>
<p>Jobs: {% for phase, count in counts.items() %}{{ count }} {{ phase }}{% if not loop.last %}, {% endif %}{% endfor %}. Seconds
depend on the machine and are no part of the results; <code>python -m pipeline trace</code> prints those of a run that was
made here.</p>
<p class="made">Data: <code>table1.csv</code>, <code>table8.csv</code></p>
</section>

<section id="lineage"><h2>Lineage</h2>
<p>Every number of a row comes from the runs of a model, and each run from the jobs behind it: evaluation, checkpoint, branch,
text run, shards. Open a job for its settings and parents. The same as text, with the commit and the machine of each job that
was made where it is asked: <code>python -m pipeline trace results/table1.csv --row branch_percent=80,model=vlm --column
vision_gain</code></p>
<p><label>Find a model or a job: <input type="search" id="find" placeholder="branch_percent=100" autocomplete="off"></label></p>
<div id="subjects">
{% for subject in subjects %}
<div class="subject" id="{{ subject.anchor }}"><h3>{{ subject.name }}</h3>
{% for seed, steps, data in subject.runs %}
<p class="chain">{% if seed %}<b>{{ seed }}</b> {% endif %}{% for name, key, link in steps %}<span class="step"><i>{{ name }}</i> <a href="{{ link }}">{{ key }}</a></span>{% if not loop.last %} <span class="from">&larr;</span> {% endif %}{% endfor %}\
{% for name, key, link in data %}<span class="step data">{{ "; from " if loop.first }}<a href="{{ link }}">{{ key }}</a>{{ ", " if not loop.last }}</span>{% endfor %}</p>
{% endfor %}
</div>
{% endfor %}
</div>
{% for phase, items in jobs %}
<h3 id="phase-{{ phase }}">{{ phase }} ({{ items|length }})</h3>
{% for job in items %}
<details class="job" id="{{ job.anchor }}"><summary>{{ job.id }}</summary>
{% if job.parents %}<p>From {% for role, parent, link in job.parents %}<i>{{ role.replace('_', ' ') }}</i> <a href="{{ link }}">{{ parent }}</a>{% if not loop.last %}, {% endif %}{% endfor %}</p>{% endif %}
<p class="settings">{{ job.own }}</p>
{% if job.shared %}<p>Settings of their own: {% for name, link in job.shared %}<a href="{{ link }}">{{ name }}</a>{% if not loop.last %}, {% endif %}{% endfor %}</p>{% endif %}
<p class="made"><code>artifacts/{{ phase }}/{{ job.id }}</code></p>
</details>
{% endfor %}
{% endfor %}
<h3>Settings that jobs share</h3>
{% for key, lines in sections %}
<details class="job" id="settings-{{ key }}"><summary>{{ key }}: {{ lines[0] }}, ...</summary><pre>{{ lines|join("\n") }}</pre></details>
{% endfor %}
</section>

<section id="made"><h2>How it was made</h2>
<div class="paper-white">{{ img(drawing, "What is trained from what, and how many jobs of each kind") }}</div>
{% for note in notes %}<p>{{ note }}</p>{% endfor %}
<p>The recommended model, which experiments vary: {% for name, value in recipe %}{{ name }} <b>{{ value }}</b>{% if not loop.last %}, {% endif %}{% endfor %}.</p>
<p>Each table and figure is one job of the study, made by <code>snakemake results/FILE</code> from the card (settings, code and
parents) whose digest stands beside it; <code>python -m pipeline why results/FILE</code> says whether that is today's. No time,
no machine and no commit is in the results, so that the same study gives the same bytes anywhere; what was noted of them when
a job was made is printed by <code>python -m pipeline trace</code>.</p>
<div class="scroll" tabindex="0" role="region" aria-label="What each result was made from"><table>
<thead><tr><th scope="col">result</th><th scope="col">files</th><th scope="col">card</th></tr></thead>
<tbody>{% for name, files, card in made_from %}
<tr><th scope="row">{{ name }}</th><td class="files">{% for file in files %}<code>{{ file }}</code> {% endfor %}</td><td><code>{{ card }}</code></td></tr>{% endfor %}
</tbody></table></div>
</section>
</main>
<div id="tip" role="status" hidden></div>
<script>{{ script }}</script>
</body>
</html>
"""

STYLE = """
:root { --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --paper: #ffffff; --card: #f6f8fa; --link: #0b5cad;
  --s0: #1f6fb5; --s1: #c65a11; --s2: #2b8a3e; --s3: #8250b4; --s4: #b3273b; --s5: #6b6f1d; --s6: #0d7d8c; --s7: #8a5a44; --s8: #555f6b;
  --good: #1a7f37; --bad: #b42318; --wait: #7a5c00; --mute: #59636e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebef; --soft: #a0a9b4; --line: #363d46; --paper: #12161b; --card: #1b2128; --link: #78b4f5;
  --s0: #6cb0f0; --s1: #f0995a; --s2: #6fcf85; --s3: #bf9bea; --s4: #f2808f; --s5: #c9cd6a; --s6: #62cfdd; --s7: #d3a48d; --s8: #a5afbb;
  --good: #57c774; --bad: #ff8a80; --wait: #e0b94a; --mute: #a0a9b4; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
header, main { max-width: 70rem; margin: 0 auto; padding: 0 1.1rem; }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.7rem); line-height: 1.15; margin: .2rem 0 .8rem; letter-spacing: -.015em; max-width: 22ch; }
h2 { font-size: 1.55rem; margin: 3.2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); letter-spacing: -.01em; }
h3 { font-size: 1.1rem; margin: 1.6rem 0 .3rem; }
h4 { font-size: .86rem; font-weight: 600; margin: 0 0 .2rem; color: var(--soft); }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
code { font: .86em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
small { color: var(--soft); font-size: .8em; white-space: nowrap; }
.kicker { margin-top: 2.4rem; color: var(--soft); }
.lead { font-size: 1.1rem; }
nav { display: flex; flex-wrap: wrap; gap: .4rem .5rem; margin: 1.2rem 0 0; }
nav a { text-decoration: none; border: 1px solid var(--line); border-radius: 2rem; padding: .22rem .8rem; background: var(--card); color: var(--ink); font-size: .92rem; }
nav a:hover { border-color: var(--link); }
.badge { display: inline-block; border: 1.5px solid currentColor; border-radius: 2rem; padding: .02rem .6rem; font: 600 .78rem/1.5 inherit; font-family: inherit; background: none; color: var(--mute); white-space: nowrap; }
.badge.supported { color: var(--good); } .badge.refuted { color: var(--bad); } .badge.inconclusive { color: var(--wait); }
.counts { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: .9rem 0; }
.counts button { cursor: pointer; padding: .25rem .8rem; font-size: .9rem; }
.counts button[aria-pressed=true] { background: currentColor; } .counts button[aria-pressed=true]::after { content: " \\00d7"; }
.counts button[aria-pressed=true] { color: var(--paper); background: var(--soft); border-color: var(--soft); }
.claims { list-style: none; padding: 0; margin: 0; }
.claim { padding: 1rem 0; border-bottom: 1px solid var(--line); }
.claim[hidden] { display: none; }
.claim details { color: var(--soft); font-size: .9rem; }
.says { margin: 0; max-width: 54rem; font-size: 1.04rem; }
.source, .made, .compares { color: var(--soft); font-size: .84rem; margin: .15rem 0; max-width: none; }
.part { display: grid; grid-template-columns: minmax(0, 1fr) 11rem 19rem; gap: 0 1.2rem; align-items: start; padding: .15rem 0; }
.compares { margin: .1rem 0; } .effect { margin: 0; font-variant-numeric: tabular-nums; line-height: 1.25; font-size: .95rem; } .effect small { display: block; }
figure { margin: 1.6rem 0 2.2rem; } figcaption h3 { margin: 0 0 .1rem; } figcaption p { color: var(--soft); font-size: .92rem; margin: 0 0 .6rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: .8rem; }
.panels.wide { grid-template-columns: minmax(0, 36rem); } .panels.wide .chart text { font-size: 12.5px; }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .7rem .3rem; min-width: 0; }
.chart { width: 100%; height: auto; display: block; overflow: visible; font-family: inherit; }
.chart.interval { max-width: 21rem; }
.chart text { fill: var(--soft); font-size: 11px; } .chart .label { font-size: 11.5px; }
.chart .grid { stroke: var(--line); stroke-width: .7; } .chart .axis { stroke: var(--soft); stroke-width: 1; }
.chart .zero { stroke: var(--soft); stroke-dasharray: 2 2; }
.chart .curve { fill: none; stroke-width: 1.8; } .chart .dashed { stroke-dasharray: 5 3; }
.chart .whisker { stroke: var(--mark, var(--s0)); stroke-width: 1.4; } .chart .wide { stroke-width: 3; stroke-linecap: round; opacity: .55; }
.chart .mark { fill: var(--mark, var(--s0)); stroke: var(--mark, var(--s0)); stroke-width: 1.8; } .chart .hollow { fill: var(--card); }
.chart .published { fill: none; stroke: var(--s1); stroke-width: 2; }
.chart .reach { fill: transparent; stroke: none; } .chart a:hover .mark, .chart a:focus .mark { stroke: var(--s1); } .chart a:focus { outline: none; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); } .s4 { stroke: var(--s4); }
.s5 { stroke: var(--s5); } .s6 { stroke: var(--s6); } .s7 { stroke: var(--s7); } .s8 { stroke: var(--s8); }
i.s0 { background: var(--s0); } i.s1 { background: var(--s1); } i.s2 { background: var(--s2); } i.s3 { background: var(--s3); } i.s4 { background: var(--s4); }
i.s5 { background: var(--s5); } i.s6 { background: var(--s6); } i.s7 { background: var(--s7); } i.s8 { background: var(--s8); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; margin: .5rem 0; font-size: .88rem; color: var(--soft); }
.legend i { display: inline-block; width: 1.1rem; height: .25rem; margin-right: .4rem; vertical-align: middle; border-radius: 1px; }
details summary { cursor: pointer; color: var(--link); font-size: .92rem; padding: .25rem 0; } details[open] > summary { margin-bottom: .4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; max-width: 100%; width: fit-content; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .34rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { background: var(--card); font-weight: 600; vertical-align: bottom; min-width: 4.6rem; }
tbody th { font-weight: 600; } .short { white-space: nowrap; } tbody tr:last-child > * { border-bottom: 0; }
tr > :first-child { position: sticky; left: 0; background: var(--card); z-index: 1; max-width: 14rem; }
td small { display: block; } td a.n, .total a.n { text-decoration: none; } td a.n:hover, .total a.n:hover { text-decoration: underline; }
#table-comparison td:last-child { min-width: 16rem; } #table-comparison tr > :first-child { min-width: 8.5rem; } .files { min-width: 14rem; }
.none { color: var(--soft); font-style: italic; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.2rem), 1fr)); gap: .9rem; max-width: 52rem; }
.example { margin: 0; border: 1px solid var(--line); border-left: 4px solid var(--good); border-radius: .5rem; overflow: hidden; background: var(--card); }
.example.wrong { border-left-color: var(--bad); } .example .given { color: var(--good); } .example.wrong .given { color: var(--bad); }
.example .picture { position: relative; } .example img { display: block; width: 100%; height: auto; image-rendering: auto; }
.example svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.example rect { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; } .example .truth { stroke: #000; } .example .given { stroke: #d01c8b; } .example rect.given { stroke-dasharray: 5 3; }
.example figcaption { padding: .5rem .7rem; font-size: .88rem; } .example figcaption p { margin: .1rem 0; color: inherit; font-size: inherit; } .example .question { font-weight: 600; } .example figcaption p.given { color: var(--good); } .example.wrong figcaption p.given { color: var(--bad); }
.paper-white { background: #fff; border: 1px solid var(--line); border-radius: .6rem; padding: .6rem; max-width: 52rem; } .paper-white img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.cost { display: grid; grid-template-columns: 13rem minmax(0, 1fr) 5.5rem; gap: .1rem .8rem; align-items: center; padding: .3rem 0; font-size: .92rem; }
.cost .bar { display: flex; height: 1rem; } .cost .bar i { height: 100%; } .cost .bar i:first-child { border-radius: 3px 0 0 3px; } .cost .bar i:last-child { border-radius: 0 3px 3px 0; } .cost .total { text-align: right; font-variant-numeric: tabular-nums; }
.cost small { grid-column: 2 / -1; white-space: normal; }
.subject { padding: .5rem 0; border-bottom: 1px solid var(--line); } .subject h3 { margin: 0; font-size: 1rem; } .subject[hidden], .job[hidden] { display: none; }
.chain { margin: .15rem 0; max-width: none; font-size: .86rem; } .step { overflow-wrap: anywhere; } .step i { color: var(--soft); font-style: normal; } .from { color: var(--soft); } .data { color: var(--soft); font-size: .92em; }
.job { border-bottom: 1px solid var(--line); font-size: .88rem; } .job p { max-width: none; overflow-wrap: anywhere; } .job summary { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; background: var(--card); border-radius: .5rem; padding: .7rem; margin: .3rem 0; }
input { font: inherit; font-size: .95rem; padding: .3rem .6rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card); color: var(--ink); max-width: 100%; }
:target { background: color-mix(in srgb, var(--link) 12%, transparent); outline: 2px solid var(--link); outline-offset: 4px; border-radius: .3rem; }
section:target { background: none; outline: none; }
#tip { position: fixed; z-index: 9; pointer-events: none; max-width: min(20rem, 90vw); background: var(--ink); color: var(--paper); font-size: .84rem; padding: .3rem .6rem; border-radius: .4rem; }
#tip[hidden] { display: none; }
body > main { padding-bottom: 5rem; }
@media (max-width: 46rem) { .part { grid-template-columns: minmax(0, 1fr); padding: .35rem 0; } .effect small { display: inline; } .cost { grid-template-columns: minmax(0, 1fr) auto; } .cost .bar { grid-column: 1 / -1; grid-row: 2; } .cost small { grid-column: 1 / -1; } tr > :first-child { max-width: 8.5rem; } .short { white-space: normal; } body { font-size: 15.5px; } }
@media print { nav, #find, .counts { display: none; } .scroll { overflow: visible; } }
"""

SCRIPT = """
"use strict";
(() => {
  const tip = document.getElementById("tip");
  let touched = null;
  const show = (mark, x, y) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x - box.width / 2, innerWidth - box.width - 4)) + "px";
    tip.style.top = (y - box.height - 14 < 4 ? y + 18 : y - box.height - 14) + "px";
  };
  const hide = () => { tip.hidden = true; };
  // The browser's own tip would stand beside this one.
  for (const title of document.querySelectorAll("[data-tip] > title")) title.remove();
  for (const mark of document.querySelectorAll("[data-tip][title]")) mark.removeAttribute("title");
  for (const mark of document.querySelectorAll("a[data-tip]")) mark.setAttribute("aria-label", mark.dataset.tip);
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark) show(mark, event.clientX, event.clientY); else hide();
  });
  document.addEventListener("focusin", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (!mark) return hide();
    const box = mark.getBoundingClientRect();
    show(mark, box.left + box.width / 2, box.top);
  });
  // A finger cannot hover: its first tap says what a mark is, its second follows it.
  document.addEventListener("click", (event) => {
    const mark = event.target.closest("[data-tip]");
    if (!mark || event.pointerType !== "touch") return;
    if (touched !== mark) event.preventDefault();
    touched = mark;
    show(mark, event.clientX, event.clientY);
  });
  addEventListener("scroll", hide, { passive: true });

  const open = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place) return;
    place.hidden = false;
    for (let around = place; around; around = around.parentElement) if (around.tagName === "DETAILS") around.open = true;
    // In the middle, with what stands around it; what is higher than the window, from its start.
    const fits = place.tagName !== "SECTION" && place.getBoundingClientRect().height < innerHeight;
    place.scrollIntoView({ block: fits ? "center" : "start" });
  };
  addEventListener("hashchange", open);
  open();

  const buttons = [...document.querySelectorAll("[data-verdict]")];
  for (const button of buttons) button.addEventListener("click", () => {
    const chosen = button.getAttribute("aria-pressed") !== "true";
    for (const other of buttons) other.setAttribute("aria-pressed", other === button && chosen);
    for (const claim of document.querySelectorAll(".claim")) claim.hidden = chosen && claim.dataset.kind !== button.dataset.verdict;
  });

  const find = document.getElementById("find");
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    for (const item of document.querySelectorAll(".subject, .job")) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  });
})();
"""

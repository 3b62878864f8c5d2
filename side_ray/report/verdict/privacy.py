"""The lower bound on the privacy loss of the training."""

from typing import Any

from side_ray.report.sections import PageData, PageSection
from side_ray.report.verdict import sentences

SCORES = {"loss": "denoising loss", "extraction": "closest sample"}


class Privacy(PageSection):
    heading = "Privacy loss of the training, at least"
    contents = "Privacy loss"
    template = """\
<p class="explain">{{ sentence }}</p>
<p>{{ w.count(privacy.pairs) }} members are paired with unseen images at random; a fair coin has decided which of a pair
was trained on. Each guesser says which one it was, from a score that was fixed without knowing the answer. If the training is
ε-differentially private under substitution of one image, a guess is right with probability at most
e<sup>ε</sup>/(1 + e<sup>ε</sup>) (Steinke, Nasr and Jagielski, 2023). The guessers share the 5% of error. So many pairs can show
at most ε = {{ w.number(privacy.most, 2) }}.
{% if privacy.handicap %}
{{ w.count(privacy.handicap) }} right guesses of each are not counted: copies of members were kept out of the unseen images.
{% endif %}
</p>
<div class="scroll" tabindex="0" role="region" aria-labelledby="privacy-caption">
<table><caption id="privacy-caption">Guesses</caption>
<thead><tr><th scope="col">Score</th><th scope="col">Pairs guessed</th><th scope="col">Right</th>
<th scope="col">ε, at least</th></tr></thead>
<tbody>
{% for row in privacy.guessers %}
<tr><th scope="row">{{ scores[row.score] }}, {{ "all pairs" if row.share == 1 else "pairs that differ most" }}</th>
<td>{{ w.count(row.guesses) }}</td><td>{{ w.count(row.right) }}</td><td>{{ w.number(row.epsilon, 2) }}</td></tr>
{% endfor %}
</tbody></table></div>
<div class="scroll" tabindex="0" role="region" aria-labelledby="attack-caption">
<table><caption id="attack-caption">Telling members from unseen images by one score</caption>
<thead><tr><th scope="col">Score</th><th scope="col">AUC</th><th scope="col">TPR at 1% FPR</th>
<th scope="col">TPR at 0.1% FPR</th></tr></thead>
<tbody>
{% for name, row in privacy.attacks.items() %}
<tr><th scope="row">{{ scores[name] }}</th><td>{{ w.number(row.auc) }}</td>
<td>{{ w.percent(row.tpr_at_fpr_1) }}</td><td>{{ w.percent(row.tpr_at_fpr_01) }}</td></tr>
{% endfor %}
</tbody></table></div>
"""

    def values(self, data: PageData) -> dict[str, Any] | None:
        privacy = data.metrics.get("privacy") or {}
        if privacy.get("epsilon") is None:
            return None
        return {"privacy": privacy, "scores": SCORES, "sentence": sentences.privacy_loss(data.metrics)}

"""Every number that a report shows, compared with what metrics.json says: a number that no rule here explains is a fault.

A rule is a sentence in which `{c}` stands for a condition and `{}` for a number, and the places in metrics.json of these numbers,
in their order; `c/…` is the first condition of the sentence, `c1/…` the second, and `|` parts places of which one must agree. A
printed number agrees with a value if it is this value rounded to the printed digits, and has its unit.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

METHODS = {"Random": "random", "plain sampling (Random)": "random", "SIDE": "td", "OL-TI": "ti"}
METHODS |= {"Given samples": "given", "given samples": "given"}
NUMBER = r"(?:[<>]\s?)?[−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?[%×]?"
CONDITION = r"(?:(?:SIDE|OL-TI) at λ=\d+(?:\.\d+)?|plain sampling \(Random\)|Random|[Gg]iven samples)"
RANGE = re.compile(r"(\d[\d,.]*)–(\d[\d,.]*%)")
CONSTANTS = re.compile(
    r"right of 0 matches|"
    r"more than 20 samples|[Ff]ar (?:below|above) 0|1 − cosine|is below 0\.1 \(Bai|"
    r"95% interval|\(95%\)|95%:|95% confidence|95th percentile|the closest 5%|80% power|5% of error|TPR at 0?\.?1% FPR"
    r"|[Ff]ewer than 5 matches|Eq\. 1[45]|SHA-256|λ = 0|λ \(0 = plain|t \(0 = clean|d₁/d₂|\(D\+1\)|above 1 where|/\(1 \+ eε\)"
    r"|Jagielski, 2023|shifted by one pixel, 1% are"
    r"|CIFAR-10|0 is an exact copy|never above 2|\(1\.5, 1\.4, 1\.35\)|3,072 dimensions"
    r"|In 64 dimensions|nL2|Chao2|JPEG of quality \d+"
)
"""What a page says whatever was found."""

_PAIR = re.compile(r"([\d.]+) train (\d+) sample (\d+)(?: label (\d+))?(?: λ=([\d.]+))?(?: beyond the cut)?$")

_ALTERNATIVE = re.compile(r"(?:Training image (\d+)(?:, label (\d+))?|Generated image, sample (\d+) of .*)$")


class Page(HTMLParser):
    """`texts`: blocks of running text and text alternatives, a `dd` after its `dt`. `tables`: by caption, headings and cells."""

    BLOCKS = frozenset({"p", "li", "dt", "dd", "figcaption", "caption", "h1", "h2", "h3", "summary", "th", "td"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tables: dict[str, tuple[list[str], list[list[str]]]] = {}
        self._open: list[tuple[str, list[str]]] = []
        self._rows: list[list[str]] = []
        self._term = self._caption = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts += [str(value) for key, value in attrs if key in ("aria-label", "alt") and value]
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in self.BLOCKS:
            self._open.append((tag, []))
        elif self._open and tag == "span":
            self._open[-1][1].append(" ")

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1].append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            assert self._caption not in self.tables, f"two tables are named {self._caption}"
            self.tables[self._caption] = (self._rows[0], self._rows[1:])
        if not self._open or self._open[-1][0] != tag:
            return
        text = " ".join("".join(self._open.pop()[1]).split())
        if tag in ("th", "td"):
            self._rows[-1].append(text)
            return
        if tag == "caption":
            self._caption = text
        if tag == "dt":
            self._term = text
        self.texts.append(f"{self._term}: {text}" if tag == "dd" else text)


def agrees(printed: str, value: float) -> bool:
    """Whether a printed number is the value, rounded."""
    text = printed.replace("−", "-").replace(",", "")
    scale = 100 if text.endswith("%") else 1
    bound, text = text[0] if text[0] in "<>" else "", text.strip("<> %×")
    if bound:
        return float(text) < value if bound == ">" else value < float(text)
    digits, _, power = text.partition("e")
    unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(text) - scale * value) <= unit / 2 * (1 + 1e-6)


def numbers(text: str) -> list[str]:
    """The numbers of a text without its constants and the names of conditions; the per cent of a range is that of both ends."""
    bare = re.sub(CONDITION, " ", CONSTANTS.sub(" ", text))
    return [each.strip() for each in re.findall(NUMBER, RANGE.sub(r"\1% \2", bare))]


def expect(text: str, values: Sequence[Any], where: str) -> None:
    """The numbers of a text are these values; None is one that is not printed."""
    found, known = numbers(text), [value for value in values if value is not None]
    assert len(found) == len(known), f"{where}: {text!r} has {found}, metrics.json {known}"
    for printed, value in zip(found, known, strict=True):
        assert agrees(printed, float(value)), f"{where}: {text!r} says {printed}, metrics.json {value!r}"


def got(of: Mapping[str, Any], paths: str) -> list[Any]:
    """The values at dotted paths, lists spread out; nothing for a path that leads nowhere."""
    found: list[Any] = []
    for path in paths.split():
        value: Any = of
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, Mapping) else None
        found += list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return found


def _shares(at: str) -> dict[str, str]:
    columns = {"AMS": "ams", "UMS": "ums", "UMS by best match": "ums_best"}
    found = {name: f"{at}/{stem} {at}/{stem}_count {at}/{stem}_ci" for name, stem in columns.items()}
    held = f"{at}/holdout_ams {at}/holdout_count {at}/holdout_ci"
    return found | {"Held-out false matches": held, "Lift": f"{at}/lift {at}/lift_ci"}


CONDITIONS: dict[str, dict[str, str]] = {
    "Calibrated cut: ": _shares("calibrated"),
    **{f"Cumulative, {name} ": _shares(f"cumulative/{name}") for name in ("low", "mid", "high")},
    **{f"Banded, {name} ": _shares(f"bands/{name}") for name in ("low", "mid", "high")},
    "Each half of the unseen images": {
        "Match training images": "crossfit/ams",
        "Match unseen images": "crossfit/unseen crossfit/unseen_ci",
    },
    "Distinct training images within reach": {
        "Found": "growth/distinct",
        "Chao2": "within",
        "Sample coverage": "growth/coverage",
    },
    "Matches against Random": {
        "McNemar against Random": "mcnemar/p_value",
        "Matches only here": "mcnemar/only_this",
        "Matches only under Random": "mcnemar/only_random",
    },
    "Best nL2": {
        **{f"{share}%": f"top_mean/{share}" for share in ("0.01", "0.05", "0.1", "0.5", "1", "5", "10")},
        "95th percentile": "percentile_95",
    },
}
"""By the start of a table's caption, what its columns hold of a condition."""
OTHERS: dict[str, tuple[str, dict[str, str]]] = {
    "Revealed training images": (
        "ledger/rows",
        {
            "Image": "train_id",
            "Label": "label",
            "Found": "matches",
            "By": "",
            "Probability": "probability probability_low probability_high",
            "Group": "group_size",
            "Local density": "local_density",
            "Nearest unseen": "nearest_unseen",
            "Closest": "best",
            "q": "q_value",
            "Copied": "",
        },
    ),
    "Guesses": (
        "privacy/guessers",
        {"Score": "", "Pairs guessed": "guesses", "Right": "right", "ε, at least": "epsilon"},
    ),
    "Telling members": (
        "privacy/attacks",
        {"Score": "", "AUC": "auc", "TPR at 1% FPR": "tpr_at_fpr_1", "TPR at 0.1% FPR": "tpr_at_fpr_01"},
    ),
}
"""The same of tables whose rows are those of a list in metrics.json."""
LOSSES = {
    "Similarity": "",
    "Training images": "n",
    "Median": "median",
    "Farthest 5%": "farthest_5_percent",
    "Within the cut": "within_cut",
    "As close as the bands": "within_bands",
}
"""The same of `ceilings`."""
IN_WORDS = {
    "jpeg_75": "saved as JPEG of quality 75",
    "jpeg_40": "saved as JPEG of quality 40",
    "half_size": "made half as large and enlarged again",
}
OPINIONS = {
    "d₁/d₂ < ⅓": "ratio/share ratio/count ratio/ci",
    "d₁/d₂ < ⅓ among unseen images": "ratio/against_unseen/share ratio/against_unseen/count ratio/against_unseen/ci",
    "Authentic": "authenticity/share authenticity/count authenticity/ci",
    "CT, cells": "copying/z copying/cells",
    "Fréchet distance": "frechet/value",
    "Mean 1 − cosine": "frechet/nearest",
    "Memorization-informed": "frechet/informed",
}
"""The same of second opinions, of which each similarity has a table."""
PROVENANCE = "What the numbers were made from"


SENTENCES: dict[str, str] = {
    "Found: {} of {} training images are revealed, at a false discovery rate of {} (95%: {}–{}); {} of them are copied": (
        "m/verdict/distinct m/train_distinct m/verdict/fdr m/verdict/distinct_ci m/verdict/copied"
    ),
    "Found: samples come closer to a few of {} training images than chance allows (permutation test, p = {}). "
    "They are fewer than the {} that could be counted at a false discovery rate of {}": (
        "m/train_distinct m/verdict/p_value m/verdict/smallest_claimable m/verdict/fdr"
    ),
    "If it had memorised {} of the training": "m/verdict/detectable",
    "memorised share of {} with": "m/verdict/detectable",
    "Counted alone, most are revealed by {c}: {} distinct images in {} samples; {c}: {}, {c}: {}": (
        "c/discoveries/0.05/distinct c/n c1/discoveries/0.05/distinct c2/discoveries/0.05/distinct"
    ),
    "Counted alone, most are revealed by {c}: {} distinct images in {} samples; {c}: {}": (
        "c/discoveries/0.05/distinct c/n c1/discoveries/0.05/distinct"
    ),
    "Counted alone, most are revealed by {c}: {} distinct images in {} samples": "c/discoveries/0.05/distinct c/n",
    "Revealed: {} of {} training images, all conditions together 95%: {}–{}": (
        "m/verdict/distinct m/train_distinct m/verdict/distinct_ci"
    ),
    "Copied: {} of these": "m/verdict/copied",
    "{c}: {} {} of {} samples 95%: {}–{}": "c/calibrated/ams c/calibrated/ams_count c/n c/calibrated/ams_ci",
    "{c}: {} {} of {} samples": "c/calibrated/ams c/calibrated/ams_count c/n",
    "Matches with held-out images: {} {} of {} samples 95%: {}–{}": (
        "best/calibrated/holdout_ams best/calibrated/holdout_count best/n best/calibrated/holdout_ci"
    ),
    "over {c}: {} ratio of the two shares paired excess: p = {}": "m/ratio best/excess_over_random/p_value",
    "over {c}: {} ratio of the two shares paired excess: p {}": "m/ratio best/excess_over_random/p_value",
    "Training data: {} training images, {} distinct": "m/train_size m/train_distinct",
    "Training data: {} training images": "m/train_size",
    "Unseen images: {}": "m/unseen",
    "Samples: {}: {} conditions of {}": "m/samples m/condition_count m/sizes",
    "Cut:  ≤ {}; {}–{} of calibration samples come that close": "m/cut m/false_match_rate_ci",
    "Duration: {} min {} s": "m/minutes m/rest",
    "Duration: {} s": "m/rest",
    "Hardware: {} nodes, {} CPUs, {} GPUs": "m/provenance/machine/nodes m/provenance/machine/cpus m/provenance/machine/gpus",
    "Hardware: {} node, {} CPU": "m/provenance/machine/nodes m/provenance/machine/cpus",
    "{} training images are exact copies of others and {} are nearly so (the largest group has {} images)": (
        "m/duplicates/member/exact m/duplicates/member/near m/duplicates/member/largest"
    ),
    "so all numbers are of {} distinct": "m/train_distinct",
    "{} exact and {} near copies of training images were found": "m/left_out",
    "Calibrated cut:  ≤ {}": "m/cut",
    "Each half of the unseen images sets the cut, for {}, checked": "m/false_match_rate",
    "sample coverage of {}. Counted": "m/half",
    "Best : mean of the best k% of the samples": "",
    "{} training images are revealed, {} of them copied": "m/ledger/revealed m/ledger/copied",
    "The next {}": "m/more",
    "The {} with the smallest q-values": "m/listed",
    "for any ε below {}": "m/privacy/epsilon",
    "{} members are paired with unseen images": "m/privacy/pairs",
    "can show at most ε = {}.": "m/privacy/most",
    "{} right guesses of each are not counted": "m/privacy/handicap",
    "best match has  ≤ {}, set so that {} in {} of": "m/cut m/one m/one_in",
    "The value that only {} in {} of": "m/one m/one_in",
    "did not set the cut, {} (95% interval over images {}–{}) do": "plain/crossfit/unseen plain/crossfit/unseen_ci",
    "{c}: {} of {} samples match. By the same criterion, {} of {} of these samples ({}, 95% interval {}–{}) match": (
        "c/calibrated/ams_count c/n c/calibrated/holdout_count c/n c/calibrated/holdout_ams c/calibrated/holdout_ci"
    ),
    "{c}: excess {} (95%: {} to {}): {} of the samples match training images and {} match unseen": (
        "c/excess c/clipped c/excess_member_share c/excess_unseen_share"
    ),
    "{c}: {} of the samples match training images, {} unseen ones": "c/calibrated/ams c/calibrated/holdout_ams",
    "{c} {} ({} to {})": "c/excess c/clipped",
    "It was set for {} in {}": "m/one m/one_in",
    "of {} samples set it": "m/cut_n",
    "{c}: {} ({}–{})": "c/crossfit/unseen c/crossfit/unseen_ci | c/calibrated/holdout_ams c/calibrated/holdout_ci",
    "{c}: {} of {}": "c/growth/distinct c/n | c/calibrated/ams_count c/n",
    "Of {} samples about {} are expected": "m/smallest m/expected",
    "All conditions together: {} of {} ({})": "m/held m/samples m/held_share",
    "Random alone finds {} of {} training images": "random/calibrated/ums_best_count m/train_distinct",
    "divided by {} times the mean distance to the {} nearest": "m/similarity/alpha m/similarity/n",
    "{c}: median {} against the training set, {} against held-out images": "c/median c/held_median",
    "{c}: median {} against the training set": "c/median",
    "{} samples are within the cut. The page holds {} pairs": "m/within m/pairs",
    "{} samples set it, of which {} may match. A reliable cut takes {}": "m/cut_n m/may m/reliable",
    "false-match rate may lie anywhere in {}–{}": "m/false_match_rate_ci",
    "calibrated cut:  ≤ {}, set by {} samples; true false-match rate {}–{}": "m/cut m/cut_n m/false_match_rate_ci",
    "calibrated cut:  ≤ {}, set by {} samples": "m/cut m/cut_n",
    "distinct training images: {}": "m/train_distinct",
    "training images: {}": "m/train_size",
    "calibration images: {}": "m/calibration_size",
    "held-out images: {}": "m/holdout_size",
    "accuracy by timestep. SIDE student (sees t): {} at t = {}, {} at t = {}.": "m/accuracy",
    "Clusters of the synthetic set: {} of {} are kept, of {} to {} images; {} of {} images": "m/clusters",
}


class Walk:
    """Compares a report with its metrics.

    Args:
        metrics: the content of metrics.json.
        scored: by method and λ, `best` and `holdout_best` (float [N_G]) and `best_id` of the samples; empty = not shown.
        labels: those of the training images.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any],
        scored: Mapping[tuple[str, float], Mapping[str, Any]] | None = None,
        labels: Sequence[int] = (),
    ) -> None:
        self.m, self.scored, self.labels = dict(metrics), scored or {}, labels
        self.rows = [dict(each) for each in metrics["conditions"]]
        for each in self.rows:
            each["growth"] = _growth(each)
            each["clipped"] = [max(-1.0, min(1.0, end)) for end in each["excess_ci"]]
            each["within"] = _within(each, metrics["train_distinct"])
            if (found := self.scored.get((each["method"], each["lambda"]))) is not None:
                each |= {"median": median(found["best"]), "held_median": median(found["holdout_best"])}
        self.opinions = iter(self.m["second_opinions"].values())
        self.best = max(self.rows, key=_found_most)
        self.plain = next((each for each in self.rows if each["method"] in ("random", "given")), {})
        self.m |= _derived(metrics, self.best, self.plain)
        self.rules = [
            (re.compile(re.escape(rule).replace(r"\{c\}", CONDITION).replace(r"\{\}", NUMBER)), places)
            for rule, places in (SENTENCES | self._listed()).items()
        ]
        self.literals = sorted(
            {*_strings(metrics), metrics["provenance"]["at"].replace("T", " ").replace("+00:00", " UTC")},
            key=len,
            reverse=True,
        )
        kinds = metrics["similarity"]["bands"].values()
        self.bands = {f"{name} ({_edges(*edges)})": name for kind in kinds for name, edges in kind.items()}

    def _listed(self) -> dict[str, str]:
        """Rules of sentences that list as many numbers as there are."""
        plain = got(self.plain, "calibrated/ams")[0]
        below = [each["lambda"] for each in self.rows if each["method"] == "td" and each["calibrated"]["ams"] < plain]
        scales = ", ".join("{}" for _ in below)
        self.m |= {"below": below, "below_plain": plain, "spread": {}}
        rules = {f"At λ={scales} guidance found fewer matches than plain sampling ({{}})": "m/below m/below_plain"}
        for start, columns in CONDITIONS.items():
            if "AMS" in columns:
                held = [got(each, columns["Held-out false matches"])[0] for each in self.rows]
                title = start.strip(": ")
                place = title.replace(", ", "-").replace(" ", "-")
                self.m["spread"][place] = sorted({min(held), max(held)})
                rules |= {f"{title}: {{}} to {{}}": f"m/spread/{place}", f"{title}: {{}}": f"m/spread/{place}"}
        for each in self.rows:
            each["rates"] = [row[key] for row in each.get("equal_rates") or () for key in ("matches", "rate")]
        ledger = self.m.get("ledger") or {}
        shown = {value: name for name, value in METHODS.items() if name[0].isupper() and "(" not in name}
        sets = [" + ".join(shown[name] for name in each["methods"]) for each in ledger.get("overlap") or ()]
        self.m["overlaps"] = [each["images"] for each in ledger.get("overlap") or ()]
        rules |= {f"found them. {'; '.join(f'{name}: {{}}' for name in sets)}.": "m/overlaps"}
        for kind in ("classes", "clusters"):
            rows = ledger.get(kind) or []
            self.m[kind] = [each[key] for each in rows for key in ("number", "revealed", "images", "copied")]
            rules |= {"; ".join("{}: {} of {} revealed, {} copied" for _ in rows) + ".": f"m/{kind}"} if rows else {}
        self.m["missed"] = {}
        for name, each in (self.m.get("ceilings") or {}).items():
            strictest = list(self.m["similarity"]["bands"]["bands"])[-1]
            shares = {
                change: found["within_bands"][strictest] if found["within_cut"] is None else found["within_cut"]
                for change, found in each["changes"].items()
                if change != "half_size" or each["side"] >= 32
            }
            missed = {change: share for change, share in shares.items() if share < 0.5}
            listed = "; ".join(f"{IN_WORDS[change]}, {{}}" for change in missed)
            self.m["missed"][name] = [each["n"], *missed.values()]
            for where in ("cut", "strictest band"):
                rules[f"Of {{}} training images, this share still matches itself at the {where}: {listed}"] = (
                    f"m/missed/{name}"
                )
        many = len(self.best.get("equal_rates") or ())
        return rules | {f"{{c}}: {', '.join('{} at {}' for _ in range(many))}": "c/rates"}

    def at(self, name: str, scale: str = "") -> dict[str, Any]:
        """The condition named `SIDE at λ=2`, or of a method and a λ as a table writes it."""
        method, _, own = name.partition(" at λ=")
        wanted = (METHODS[method], 0.0 if (own or scale) in ("", "–") else float(own or scale))
        return next(each for each in self.rows if (each["method"], each["lambda"] or 0.0) == wanted)

    def page(self, page: Page) -> int:
        """Compare every number, and return how many there were."""
        for text in page.texts:
            self.text(text)
        for caption, (headings, rows) in page.tables.items():
            self.table(caption, headings, rows)
        cells = [cell for _, rows in page.tables.values() for row in rows for cell in row]
        return sum(len(numbers(text)) for text in (*page.texts, *cells))

    def text(self, text: str) -> None:
        """Compare the numbers of a text."""
        left = text
        for shown in [*self.bands, *self.literals]:
            left = left.replace(shown, self.bands.get(shown, " "))
        if self.scored and (match := _PAIR.match(text)):
            self.pair(match)
            return
        if self.scored and (match := _ALTERNATIVE.match(text)):
            self.alternative(match)
            return
        if " by guidance scale. " in left:
            self.curve(left)
            return
        left = " ".join(left.replace("nL2", "").split(" "))
        for pattern, places in self.rules:
            while match := pattern.search(left):
                self._one_of(match[0], places, text)
                left = left[: match.start()] + " ; " + left[match.end() :]
        left = CONSTANTS.sub(" ", re.sub(CONDITION, " ", left))
        assert not re.search(r"\d", left), f"no rule explains what is left of {text!r}: {left!r}"

    def _one_of(self, text: str, places: str, where: str) -> None:
        of = {"m": self.m, "best": self.best, "plain": self.plain, "random": self.plain}
        of |= {f"c{place or ''}": self.at(name) for place, name in enumerate(re.findall(CONDITION, text))}
        *others, last = places.split(" | ")
        for other in others:
            try:
                expect(text, got(of, other), where)
            except AssertionError:
                continue
            return
        expect(text, got(of, last), where)

    def alternative(self, match: re.Match[str]) -> None:
        """Compare the numbers of an image's text alternative."""
        train, label, sample = match.groups()
        if train is None:
            assert int(sample) < max(each["n"] for each in self.rows)
        else:
            assert label is None or self.labels[int(train)] == int(label), match[0]

    def pair(self, match: re.Match[str]) -> None:
        """Compare a pair's numbers with the scores: some condition has this match."""
        value, train, sample, label, scale = match.groups()
        found = [
            each
            for (_, own), each in self.scored.items()
            if (scale is None or float(scale) == own) and each["best_id"][int(sample)] == int(train)
        ]
        assert any(agrees(value, each["best"][int(sample)]) for each in found), match[0]
        assert label is None or self.labels[int(train)] == int(label), match[0]

    def curve(self, text: str) -> None:
        """Compare the text alternative of a curve over λ."""
        columns = next(of for start, of in CONDITIONS.items() if start.strip(": ").lower() in text.lower())
        place = columns[text.partition(", ")[0]].split()[0]
        points = text.partition(" by guidance scale. ")[2]
        for method, listed in re.findall(r"(Random|SIDE|OL-TI)((?: λ [\d.]+: [\d.]+%,?)+| [\d.]+%)", points):
            for scale, share in re.findall(r"(?:λ ([\d.]+): )?([\d.]+%)", listed):
                expect(share, got(self.at(method, scale), place), text)
                points = points.replace(f"λ {scale}: {share}" if scale else share, "", 1)
        assert not re.search(r"\d", points), points

    def table(self, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Compare the cells of a table."""
        if caption in ("What the numbers were made from", "Artifacts, relative to the run directory"):
            self.provenance(rows)
            return
        of: Sequence[Mapping[str, Any]]
        if (known := next((each for start, each in OTHERS.items() if caption.startswith(start)), None)) is not None:
            place, columns = known
            found = self.m[place.split("/")[0]][place.split("/")[1]]
            of = list(found.values()) if isinstance(found, Mapping) else found
            if place == "ledger/rows":
                of = of[10:] if caption.endswith("continued") else of[:10]
        elif caption.startswith("Second opinions"):
            found = next(self.opinions)
            columns, of = OPINIONS, [*found["conditions"], *([found["unseen"]] if found["unseen"] else [])]
            assert [cells[0] for cells in rows[len(found["conditions"]) :]] == ["Unseen images"] * bool(found["unseen"])
            columns = columns | {"Method": "", "λ": "lambda", "NG": "n"}
        elif caption == "Training images that match themselves after a loss":
            columns = LOSSES
            of = [
                {**change, "n": each["n"]}
                for each in self.m["ceilings"].values()
                for change in each["changes"].values()
            ]
        else:
            columns = next(each for start, each in CONDITIONS.items() if caption.startswith(start))
            columns = columns | {"Method": "", "λ": "lambda", "NG": "n"}
            of = [self.at(*cells[:2]) for cells in rows]
        for row, cells in zip(of, rows, strict=True):
            for heading, cell in zip(headings, cells, strict=True):
                assert heading in columns, f"{caption}: nothing says what {heading!r} holds"
                values = [] if cell == "–" else got(row, columns[heading])
                if columns[heading]:
                    expect(cell, values, f"{caption}, {heading}, {cells[:2]}")

    def provenance(self, rows: Sequence[Sequence[str]]) -> None:
        """Each row is a leaf of metrics.json under its name, or one of the counts."""
        leaves = dict(_leaves({"similarity": self.m["similarity"], **self.m["provenance"]}))
        for name, text in rows:
            if name in leaves:
                assert text == leaves[name], f"{name}: {text}"
            else:
                self.text(f"{name}: {text}")


def _growth(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = row.get("reach") or row.get("richness") or {}
    return found


def _within(row: Mapping[str, Any], size: int) -> list[float]:
    found = _growth(row)
    if not found.get("chao2") or found["coverage"] < 0.5:
        return []
    return [min(value, size) for value in (found["chao2"]["value"], *found["chao2"]["ci"])]


def _found_most(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["discoveries"]["0.05"]["distinct"], row["method"] == "random", row["excess"]


def median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return float(ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def _edges(low: float | None, high: float | None) -> str:
    return f"≤ {high:g}" if low is None else f"{low:g} to {high:g}"


def _derived(m: Mapping[str, Any], best: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """What a report computes from other numbers of metrics.json."""
    rows, seconds = m["conditions"], round(sum(m["provenance"]["seconds"].values()))
    held, samples = sum(each["calibrated"]["holdout_count"] for each in rows), sum(each["n"] for each in rows)
    rate, sizes = m["false_match_rate"], [each["n"] for each in rows]
    steps = (m.get("surrogate") or {}).get("accuracy") or []
    ends = [
        value
        for row in (steps[:1] + steps[-1:])
        for value in (row["hits"] / row["count"], (row["first"] + row["last"]) / 2)
    ]
    return {
        "unseen": m["calibration_size"] + m["holdout_size"],
        "samples": samples,
        "sizes": sorted(set(sizes)),
        "smallest": min(sizes),
        "expected": min(sizes) * rate,
        "condition_count": len(rows),
        "held": held,
        "held_share": held / samples,
        "minutes": seconds // 60,
        "rest": seconds % 60,
        "one": 1,
        "one_in": 1 / rate,
        "may": max(1, int(m["cut_n"] * rate)),
        "reliable": 4 / rate,
        "half": 0.5,
        "more": len((m.get("ledger") or {}).get("rows") or ()) - 10,
        "listed": len((m.get("ledger") or {}).get("rows") or ()),
        "ratio": best["calibrated"]["ams"] / plain["calibrated"]["ams"] if plain["calibrated"]["ams"] else None,
        "accuracy": ends,
    }


def _strings(value: Any) -> Iterator[str]:
    """The texts of metrics.json with a digit in them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (str(key), *_strings(inner)) if "/" in str(key) else _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str) and re.search(r"\d", value) and len(value) > 3:
        yield value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, str(value)

"""A finished run in Python: `side_ray.open_run`."""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from side_ray.errors import Damaged, UserError
from side_ray.images import decode_png
from side_ray.report import findings, wording
from side_ray.report.table import metrics_rows
from side_ray.results.extracted import members_of
from side_ray.results.recorded import Recorded
from side_ray.results.remake import Remade, remake
from side_ray.runs.dataset import read_split
from side_ray.runs.run import PAGE
from side_ray.storage import Store
from side_ray.storage.sealed import read_table

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 160
"""Height (pixels) of an image in a notebook."""


class Drawing(str):
    """A figure of the report as SVG text, which a notebook shows as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: str | Path) -> None:
        """Write it to an SVG file."""
        Path(path).write_text(self, encoding="utf-8")


@dataclass(frozen=True)
class Pair:
    """A sample and the training image closest to it.

    Attributes:
        id: `method/λ/sample_id`.
        train, sample: both images, as the similarity saw them.
        value: the similarity between them.
        copy: whether `value` is within the cut.
        train_id, label, file: number, class and name in the source of the training image; None where it has none.
    """

    id: str
    train: Image.Image
    sample: Image.Image
    value: float
    copy: bool
    train_id: int
    label: int | None
    file: str | None

    def _repr_html_(self) -> str:
        caption = f"{self.id}: {self.value:.3f} to training image {self.train_id}"
        caption += f" ({self.file})" if self.file else ""
        shown = "".join(_tag(image, name) for image, name in ((self.train, "training image"), (self.sample, "sample")))
        return f"<figure>{shown}<figcaption>{html.escape(caption)}</figcaption></figure>"


class AuditResult:
    """The newest report of a run, with its tables and images.

    Nothing is computed again: numbers are those of metrics.json, images those of the run. It works wherever the run
    directory can be read, without Ray, the model or the training data.

    Attributes:
        uri: the run directory.
        metrics: the content of metrics.json.
    """

    def __init__(self, store: Store) -> None:
        self._recorded = Recorded.open(store)
        self._store = store
        self.uri = store.uri
        self.metrics = self._recorded.metrics

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved config that the report was made with, as JSON-able values."""
        return self._recorded.config

    @property
    def page(self) -> str:
        """Path or URI of the report's page."""
        return f"{self.uri}/{PAGE}"

    @property
    def headline(self) -> str:
        """The result in one or two sentences."""
        return findings.headline(self.metrics)

    @cached_property
    def table(self) -> "pd.DataFrame":
        """The rows of metrics.csv: one for each condition and band, shares as fractions of `n`."""
        import pandas as pd

        return pd.DataFrame(metrics_rows(self.metrics))

    @cached_property
    def extracted(self) -> "pd.DataFrame":
        """The training images that were found, one row each: see `results.extracted.SCHEMA`.

        Raises:
            UserError: the report is of a version that wrote none.
        """
        try:
            return read_table(self._store, f"{self._recorded.key}/extracted.parquet").to_pandas()
        except Damaged:
            raise UserError(
                f"{self.uri}: its report has no whole extracted.parquet; run side-ray report again"
            ) from None

    @cached_property
    def figures(self) -> dict[str, Drawing]:
        """The figures of the report by name, for example `lambda-calibrated-ams`."""
        found = sorted(entry.key for entry in self._store.list(f"{self._recorded.key}/figures"))
        return {Path(key).stem: Drawing(self._store.read(key).decode()) for key in found if key.endswith(".svg")}

    def matches(self, method: str, lam: float | None = None, *, within_cut: bool = True) -> "pd.DataFrame":
        """The samples of one condition with their closest training images, the closest first.

        Args:
            method: random, td (SIDE), lora, ti (OL-TI), base, given, …
            lam: λ; not needed where the method has only one.
            within_cut: only the samples that count as copies; else all N_G.

        Returns:
            Indexed by pair id `method/λ/sample_id`, columns `sample_id`, `train_id`, `value` (the similarity), `holdout_value`
            (that to the closest held-out image; only with held-out images), `copy`, `file` and `label` of the training image.

        Raises:
            UserError: there is no such condition, or its scores are no longer there.
        """
        import pandas as pd

        condition = self._recorded.condition(method, lam)
        table = self._recorded.scores(condition)
        frame = pd.DataFrame(
            {"sample_id": table["sample_id"], "train_id": table["best_id"], "value": table["best"]}
            | ({"holdout_value": table["holdout_best"]} if "holdout_best" in table else {})
            | {"copy": self._recorded.criterion.includes(table["best"])}
        )
        if within_cut:
            frame = frame[frame["copy"]]
        frame = frame.sort_values(["value", "sample_id"], ascending=[not self._recorded.larger_is_closer, True])
        about = self._members(sorted(set(frame["train_id"])))
        for name in ("file", "label"):
            frame[name] = [about.get(each, {}).get(name) for each in frame["train_id"]]
        frame.index = pd.Index([_pair_id(condition, each) for each in frame["sample_id"]], name="id")
        return frame

    def pair(self, id: str | int) -> Pair:
        """A sample and its closest training image.

        Args:
            id: `method/λ/sample_id`, the index of `matches`; or a number: the closest sample to that training image, from
                `extracted`.

        Raises:
            UserError: there is no such sample, the training image was not found, or the run's images were removed.
        """
        if not isinstance(id, str):
            rows = self.extracted[self.extracted["train_id"] == id].to_dict("records")
            if not rows:
                raise UserError(f"training image {id}: no sample is a copy of it")
            id = _pair_id(rows[0], rows[0]["sample_id"])
        try:
            method, scale, number = id.split("/")
            condition, sample_id = self._recorded.condition(method, float(scale)), int(number)
        except ValueError:
            raise UserError(f"{id!r} is no pair; write method/λ/sample_id, for example td/5/12") from None
        scores = self._recorded.row("scores", condition, sample_id, ["best_id", "best"])
        sample = self._recorded.row("samples", condition, sample_id, ["image"])
        train_id = scores["best_id"]
        members = self._images(train_id)
        return Pair(
            id=_pair_id(condition, sample_id),
            train=picture(members),
            sample=picture(decode_png(sample["image"]["bytes"])),
            value=scores["best"],
            copy=bool(self._recorded.criterion.includes(np.array(scores["best"], np.float32))),
            train_id=train_id,
            **{"file": None, "label": None, **self._members([train_id]).get(train_id, {})},
        )

    def remake(self, method: str, lam: float | None, id: int) -> Remade:
        """Make a sample again from its seed, with the run's model and settings, and compare it with the stored one.

        Args:
            method, lam: its condition, as for `matches`.
            id: its `sample_id`.

        Raises:
            UserError: there is no such sample, the samples were given, or the weights are not those of the report.
        """
        return remake(self._recorded, method, lam, id)

    def _images(self, train_id: int) -> np.ndarray:
        try:
            found = read_split(self._store, self._recorded.artifacts["prepare"], "member", ids=[train_id]).images
        except (FileNotFoundError, ValueError):
            found = np.empty(0)
        if not len(found):
            raise UserError(f"{self.uri}: its training images are no longer there; run side-ray audit again")
        image: np.ndarray = found[0]
        return image

    def _members(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        return members_of(self._store, self._recorded.artifacts["prepare"], ids)

    def __repr__(self) -> str:
        return f"<side-ray run {self.uri}: {self.headline}>"

    def _repr_html_(self) -> str:
        criterion = self._recorded.criterion
        rows = [(each, band) for each in self.metrics["conditions"] if (band := criterion.of(each))]
        cells = "".join(
            f"<tr><td>{html.escape(wording.condition_name(each))}</td><td>{wording.count(each['n'])}</td>"
            f"<td>{wording.percent(band['ams'])} ({wording.count(band['ams_count'])})</td>"
            f"<td>{wording.interval(band['ams_ci'])}</td><td>{wording.percent(band.get('holdout_ams'))}</td></tr>"
            for each, band in rows
        )
        names = ("condition", "N<sub>G</sub>", "copies", "95%", "held-out matches")
        head = "".join(f"<th>{name}</th>" for name in names)
        return (
            f"<p><b>{html.escape(self.headline)}</b></p><table><tr>{head}</tr>{cells}</table>"
            f"<p>{html.escape(criterion.title)} · {html.escape(self.page)}</p>"
        )


def bits8(image: np.ndarray) -> np.ndarray:
    """An image as of `decode_png` in 8 bits per channel."""
    return image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8)


def picture(image: np.ndarray) -> Image.Image:
    """An image [H, W, C] as of `decode_png` as a PIL image of 8 bits."""
    image = bits8(image)
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _pair_id(condition: Mapping[str, Any], sample_id: int) -> str:
    return f"{condition['method']}/{condition['lambda']:g}/{sample_id}"


def _tag(image: Image.Image, name: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img alt="{name}" height="{SHOWN}" style="image-rendering:pixelated" src="data:image/png;base64,{encoded}">'
    )

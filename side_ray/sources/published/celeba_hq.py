"""CelebA-HQ and CelebA-HQ-FI: images labelled by person, of which the identity list chooses the members."""

from typing import Any

from side_ray.config.base import Count, Section
from side_ray.sources.published.celeba import CelebaSource


class CelebaHqOptions(Section):
    labels_file: str | None = None
    """The identity list; by default looked for in `path` and beside it."""
    min_per_class: Count = 1
    """Persons with fewer images in `path` are left out."""


class CelebaHqSource(CelebaSource):
    """CelebA-HQ's images. Those that are not in the list are not members, which is how CelebA-HQ-FI is defined within
    CelebA-HQ; with `data.holdout_path` equal to `data.path` they are the unseen images. Without a list the sub-folders are the
    persons."""

    Options = CelebaHqOptions
    label_keys = frozenset()
    splits_one_path = True
    archive = None
    list_name = "CelebA-HQ-identity.txt"
    list_chooses = True

    @classmethod
    def check_section(cls, section: Any) -> None:
        listed = section.options(CelebaHqOptions).labels_file
        if section.path is not None and section.holdout_path == section.path and not section.labels and not listed:
            raise ValueError(
                "data.labels_file: is needed to tell the members from other images of the same path; give it"
            )

    def _labelled_without_list(self) -> bool:
        return self.labelled

"""What the conditions of samples are drawn from, in the run."""

import numpy as np
import pyarrow as pa
import pytest

from side_ray.errors import UserError
from side_ray.images import ImageSet
from side_ray.runs.dataset import split_table
from side_ray.runs.imported.conditions import read_conditioning, source_of, write_conditions
from side_ray.runs.run import Artifact, Run
from side_ray.storage.local import LocalStore
from side_ray.storage.sealed import write_table
from tests.audits import tiny_config


def config(tmp_path, **dpm):
    return tiny_config(tmp_path / "run", dpm={"path": "model", **dpm})


def prepared(tmp_path, labels: list[int] | None, captions: list[str | None] | None = None) -> Artifact:
    """Four members and two holdout images."""
    artifact = Run(LocalStore(tmp_path)).artifact("prepare", 1)
    own = None if labels is None else np.array(labels)
    images = ImageSet(np.arange(6), np.zeros((6, 2, 2, 1), np.uint8), own)
    tables = [split_table(images, np.arange(4), "member"), split_table(images, np.arange(4, 6), "holdout")]
    table = pa.concat_tables(tables)
    if captions is not None:
        place = table.schema.get_field_index("caption")
        table = table.set_column(place, "caption", pa.array(captions, pa.string()))
    write_table(artifact.store, f"{artifact.key}/part-000000.parquet", table)
    artifact.finish(parts=1)
    return artifact


def test_classes_come_in_the_proportions_of_the_members_labels(tmp_path):
    asked = config(tmp_path, classes="labels", null_class=3, guidance_scale=2.0)
    target = Artifact(LocalStore(tmp_path), "condition/0")
    write_conditions(target, prepared(tmp_path, [2, 0, -1, 2, 1, 1]), asked)
    assert target.done
    found = read_conditioning(asked.dpm, target)
    assert (found.counts, found.null_class, found.scale) == ((1, 0, 2), 3, 2.0)


def test_without_labels_there_are_no_proportions(tmp_path):
    with pytest.raises(UserError, match=r"dpm\.classes: labels, but the training images have none"):
        write_conditions(
            Artifact(LocalStore(tmp_path), "condition/0"), prepared(tmp_path, None), config(tmp_path, classes="labels")
        )


CAPTIONS = ["a", "b", None, "a", "unseen", None]


@pytest.mark.parametrize(
    ("asked", "expected"), [("member_captions", ("a", "b", "a")), ("unseen_captions", ("unseen",))]
)
def test_prompts_are_the_captions_of_a_split(tmp_path, asked, expected):
    target, wanted = Artifact(LocalStore(tmp_path), "condition/0"), config(tmp_path, prompts=asked)
    write_conditions(target, prepared(tmp_path, None, CAPTIONS), wanted)
    found = read_conditioning(wanted.dpm, target)
    assert (found.prompts, found.texts) == (asked, expected)


def test_captions_are_those_of_members_and_unseen_images_alike(tmp_path):
    target, wanted = Artifact(LocalStore(tmp_path), "condition/0"), config(tmp_path, prompts="captions")
    write_conditions(target, prepared(tmp_path, None, ["a", "b", None, "a", "unseen", "other"]), wanted)
    assert read_conditioning(wanted.dpm, target).texts == ("a", "b", "a", "unseen", "other")


def test_captions_of_nearly_only_members_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"dpm\.prompts: captions, but 75% of the members and only 50% of unseen images"
    ):
        write_conditions(
            Artifact(LocalStore(tmp_path), "condition/0"),
            prepared(tmp_path, None, CAPTIONS),
            config(tmp_path, prompts="captions"),
        )


def test_without_captions_there_are_no_prompts(tmp_path):
    with pytest.raises(UserError, match=r"dpm\.prompts: captions, but none of the 6 images has a caption"):
        write_conditions(
            Artifact(LocalStore(tmp_path), "condition/0"),
            prepared(tmp_path, None),
            config(tmp_path, prompts="captions"),
        )


def test_prompts_of_a_file_are_known_by_their_text(tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffa flower\n\n  the sky \n", encoding="utf-8")
    wanted = config(tmp_path, prompts=str(tmp_path / "prompts.txt"))
    target = Artifact(LocalStore(tmp_path), "condition/0")
    write_conditions(target, prepared(tmp_path, None), wanted)
    assert read_conditioning(wanted.dpm, target).texts == ("a flower", "the sky")
    before = source_of(wanted, "0")
    (tmp_path / "prompts.txt").rename(tmp_path / "other.txt")
    assert source_of(config(tmp_path, prompts=str(tmp_path / "other.txt")), "0") == before
    (tmp_path / "other.txt").write_text("a flower")
    assert source_of(config(tmp_path, prompts=str(tmp_path / "other.txt")), "0") != before


@pytest.mark.parametrize("prompts", ["", "empty"])
def test_the_empty_prompt_needs_nothing(tmp_path, prompts):
    wanted = config(tmp_path, prompts=prompts)
    assert source_of(wanted, "0") is None
    assert read_conditioning(wanted.dpm, None).texts == ("",)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no file"), (b"\n \n", "holds no prompt"), (b"\xff\xfe\x00", "no text in UTF-8")],
)
def test_a_file_without_prompts_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"dpm\.prompts: .*{words}"):
        source_of(config(tmp_path, prompts=str(tmp_path / "prompts.txt")), "0")

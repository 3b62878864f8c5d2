"""What is checked before anything starts, in the order of the stages; and a run neither writes into what it reads, nor takes
one set of images for another."""

import json

import pytest

from side_ray.config.extract import GivenSection
from side_ray.config.file import parse_config
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.errors import UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.preflight import check_places, preflight
from side_ray.storage import within
from tests.audits import tiny_config
from tests.formats import pictures, write_folder


def config(tmp_path, run, path, **data):
    values = {"source": "folder", "path": str(path), "members": 4, "holdout": 1} | data
    return tiny_config(run, data=values)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.parametrize("run", ["images", "images/run", "images/inner/..", "link", "link/run", "other/../images/run"])
def test_a_run_in_its_data_is_refused(tmp_path, images, run):
    with pytest.raises(UserError, match=r"^run\.uri: .* is data\.path or in it"):
        check_places(config(tmp_path, f"{tmp_path}/{run}", images))
    with pytest.raises(UserError, match=r"^run\.uri: "):
        check_places(config(tmp_path, f"{tmp_path}/images/run", tmp_path / "link"))
    with pytest.raises(UserError, match=r"^run\.uri: "):
        check_places(config(tmp_path, f"{tmp_path}/{run}", f"{images}/**/*.parquet"))


def test_data_where_the_run_writes_is_refused_and_data_beside_it_is_not(tmp_path, images):
    with pytest.raises(UserError, match=r"^data\.path: .* is where this run writes"):
        check_places(config(tmp_path, tmp_path / "run", tmp_path / "run" / "prepare"))
    check_places(config(tmp_path, tmp_path / "images-run", images))
    check_places(config(tmp_path, tmp_path / "images" / "run", f"{images}/*.parquet"))
    check_places(config(tmp_path, tmp_path / "run", tmp_path / "run" / "my-images"))
    check_places(config(tmp_path, "s3://bucket/run", "s3://bucket/images"))
    with pytest.raises(UserError, match=r"^run\.uri: "):
        check_places(config(tmp_path, "s3://bucket/images/run", "s3://bucket//images/"))


@pytest.mark.parametrize("unseen", ["link", "images/", "images/inner", "."])
def test_unseen_images_among_the_members_are_refused(tmp_path, images, unseen):
    with pytest.raises(UserError, match=r"^data\.holdout_path: "):
        check_places(config(tmp_path, "/elsewhere/run", images, holdout_path=f"{tmp_path}/{unseen}"))


@pytest.mark.parametrize("samples", ["link", "images/inner", "."])
def test_generated_images_among_the_training_images_are_refused(tmp_path, images, samples):
    given = GivenSection(samples=f"{tmp_path}/{samples}")
    audit = config(tmp_path, "/elsewhere/run", images).model_copy(update={"given": given})
    with pytest.raises(UserError, match=r"^given\.samples: "):
        check_places(audit)


def test_places_are_compared_after_links_and_spelling(tmp_path, images):
    assert within(f"{tmp_path}/link/inner", str(images))
    assert within(f"file://{tmp_path}/link", f"{images}/")
    assert not within(f"{images}2", str(images))
    assert within("s3://bucket/a//b/", "s3://bucket/a/b")
    assert not within("s3://bucket/ab", "s3://bucket/a")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Training images, unseen images, and an untrained imported model of a schedule of 50 steps."""
    root = tmp_path_factory.mktemp("place")
    write_folder(root / "train", pictures(30, (8, 8)), classes=0)
    write_folder(root / "unseen", pictures(20, (8, 8), seed=1), classes=0)
    save_pipeline(new_unet({"norm_num_groups": 8}, (3, 8, 8)), new_schedule("linear", 50).config, root / "model")
    return root


def imported(place, tmp_path, **changes):
    data = {"source": "folder", "path": str(place / "train"), "holdout_path": str(place / "unseen")}
    values = {"data": data | {"members": 30, "holdout": 10}, "dpm": {"path": str(place / "model")}} | changes
    sampling = {"methods": ["random"], "lambdas": [0], "samples": 100, "shard_size": 50, "steps": 10}
    values["extract"] = sampling | values.get("extract", {})
    return tiny_config(tmp_path / "run", surrogate={"synthetic": 100, "classes": 2}, **values)


@pytest.mark.parametrize(("timesteps", "steps", "fits"), [(4000, 2000, True), (200, 250, False), (50, 100, False)])
def test_steps_are_checked_against_the_schedule_of_the_imported_model(place, tmp_path, timesteps, steps, fits):
    where = place / "model" / "scheduler" / "scheduler_config.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | {"num_train_timesteps": timesteps}))
    artifacts = Artifacts.open(imported(place, tmp_path, extract={"steps": steps}))
    if fits:
        preflight(artifacts)
    else:
        with pytest.raises(UserError, match=rf"^extract\.steps: .* to {timesteps} steps on this noise schedule"):
            preflight(artifacts)


FAULTS = {
    "run.uri": lambda place: {"run": {"uri": f"{place}/gone/run"}},
    "data.path": lambda place: {"data__path": f"{place}/gone"},
    "data.holdout_path": lambda place: {"data__holdout_path": f"{place}/none"},
    "data.members": lambda place: {"data__members": 31},
    "dpm.path": lambda place: {"dpm__path": f"{place}/no-model"},
    "extract.steps": lambda place: {"extract__steps": 5000},
    "score.checkpoint": lambda place: {"score__similarity": "sscd", "score__checkpoint": f"{place}/gone.onnx"},
}


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_the_first_fault_in_the_order_of_the_stages_is_told(place, tmp_path, first):
    values = imported(place, tmp_path).model_dump(mode="json")
    for key in reversed(list(FAULTS)[first:]):
        for name, change in FAULTS[key](place).items():
            section, _, field = name.partition("__")
            values[section] = {**values[section], field: change} if field else change
    with pytest.raises(UserError) as caught:
        preflight(Artifacts.open(parse_config(values, "test")))
    assert str(caught.value).startswith(f"{list(FAULTS)[first]}: ")


def test_a_plan_tells_all_that_is_missing_and_refuses_what_is_wrong(place, tmp_path):
    gone = {"source": "folder", "path": f"{place}/gone", "image_size": 8, "members": 30, "holdout": 10}
    lacking = Artifacts.open(imported(place, tmp_path, data=gone, dpm={"path": f"{place}/no-model"}))
    missing: list[str] = []
    with pytest.raises(UserError, match=r"^dpm\.path: .*no-model holds no files"):
        preflight(lacking, missing)
    assert [line.partition(":")[0] for line in missing] == ["data.path"]


@pytest.mark.parametrize("more", [1, 10])
def test_a_lack_of_images_names_what_was_left_out(place, tmp_path, more):
    folder = tmp_path / "some"
    write_folder(folder, pictures(20, (8, 8)), classes=0)
    (folder / "z.png").symlink_to(tmp_path / "nowhere")
    (folder / "notes.txt").write_text("x")
    data = {"source": "folder", "path": str(folder), "holdout_path": str(place / "unseen"), "members": 21 + more}
    with pytest.raises(UserError) as caught:
        preflight(Artifacts.open(imported(place, tmp_path, data=data | {"holdout": 10})))
    assert "lower data.members" not in str(caught.value)
    assert "(notes.txt)" in str(caught.value)

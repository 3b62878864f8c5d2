import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from side_ray.errors import UserError
from side_ray.surrogate.guide import open_surrogate
from side_ray.surrogate.resnet import BasicBlock, ResNet, ResNetConfig, load_torchvision


def torchvision_layout(blocks: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ResNet of basic blocks, written down from its published layout."""

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        keys = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{key}": (channels,) for key in keys} | {f"{name}.num_batches_tracked": ()}

    layout: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    inside = 64
    for stage, (depth, channels) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            layout |= {f"{name}.conv1.weight": (channels, inside, 3, 3)} | norm(f"{name}.bn1", channels)
            layout |= {f"{name}.conv2.weight": (channels, channels, 3, 3)} | norm(f"{name}.bn2", channels)
            if inside != channels:
                layout |= {f"{name}.downsample.0.weight": (channels, inside, 1, 1)}
                layout |= norm(f"{name}.downsample.1", channels)
            inside = channels
    return layout | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


def randomized(config: ResNetConfig) -> ResNet:
    """A network whose every parameter and running statistic is away from its initial value, time modules included."""
    generator = torch.Generator().manual_seed(3)
    model = ResNet(config)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * 0.1
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else value + noise)
    return model.eval()


SMALL = ResNetConfig(num_classes=5, blocks=(1, 1, 1), width=8, in_channels=1, stem="cifar", time=True, time_dim=16)


@pytest.mark.parametrize(
    ("preset", "blocks", "parameters"), [("resnet18", (2, 2, 2, 2), 11_689_512), ("resnet34", (3, 4, 6, 3), 21_797_672)]
)
def test_the_twin_without_time_has_torchvisions_names_shapes_and_size(preset, blocks, parameters):
    with torch.device("meta"):  # names and shapes, without values
        model = ResNet.preset(preset, num_classes=1000)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == torchvision_layout(blocks, 1000)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_torchvision_state_dict_loads_strictly_and_a_foreign_one_is_refused():
    layout = torchvision_layout((2, 2, 2, 2), 10)
    state = {k: torch.full(shape, 0.5) if shape else torch.tensor(7) for k, shape in layout.items()}
    model = load_torchvision(state, ResNetConfig(num_classes=10, blocks=(2, 2, 2, 2)))
    assert not model.training
    assert model.state_dict()["layer4.1.conv2.weight"].unique().item() == 0.5
    del state["layer2.0.downsample.0.weight"]
    with pytest.raises(UserError, match=r"layer2\.0\.downsample\.0\.weight"):
        load_torchvision(state, ResNetConfig(num_classes=10, blocks=(2, 2, 2, 2)))


def test_time_only_adds_names():
    with torch.device("meta"):
        plain = set(ResNet.preset("resnet34", num_classes=10).state_dict())
        added = set(ResNet.preset("resnet34", num_classes=10, time=True).state_dict()) - plain
    per_block = {f"layer{i + 1}.{j}.time.projection" for i, n in enumerate((3, 4, 6, 3)) for j in range(n)}
    assert {name.rsplit(".", 1)[0] for name in added} == per_block | {
        "time_embedding.linear_1",
        "time_embedding.linear_2",
    }


def test_imagenet_stem_downsamples_by_4_and_cifar_stem_keeps_the_size():
    for stem, expected in (("imagenet", 8), ("cifar", 32)):
        model = ResNet(ResNetConfig(num_classes=3, blocks=(1, 1), width=8, stem=stem)).eval()
        seen = []
        model.get_submodule("layer1.0").register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.shape))
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
        assert seen[0][-2:] == (expected, expected)


def test_the_time_module_sits_straight_after_each_blocks_first_batchnorm():
    model = randomized(SMALL)
    order, calls = [], {}

    def watch(name):
        def hook(_module, inputs, output):
            order.append(name)
            calls[name] = (inputs[0].clone(), output.clone())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, BasicBlock):
            for child in ("conv1", "bn1", "time", "conv2", "bn2"):
                module.get_submodule(child).register_forward_hook(watch(f"{name}.{child}"))
    model(torch.randn(4, 1, 8, 8), torch.tensor([0, 10, 500, 999]))
    parts = ["conv1", "bn1", "time", "conv2", "bn2"]
    assert order == [f"layer{i}.0.{part}" for i in (1, 2, 3) for part in parts]
    for i in (1, 2, 3):
        block = f"layer{i}.0"
        assert torch.equal(calls[f"{block}.time"][0], calls[f"{block}.bn1"][1])
        assert not torch.equal(calls[f"{block}.time"][1], calls[f"{block}.bn1"][1])
        assert torch.equal(calls[f"{block}.conv2"][0], calls[f"{block}.time"][1].relu())


def test_an_untrained_time_module_is_the_identity_and_a_trained_one_is_not():
    plain = ResNet(ResNetConfig(num_classes=5, blocks=(1, 1, 1), width=8, in_channels=1, stem="cifar")).eval()
    timed = ResNet(SMALL).eval()
    timed.load_state_dict(plain.state_dict(), strict=False)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 400, 999])
    assert torch.equal(timed(x, t), plain(x))
    model = randomized(SMALL)
    assert (model(x, t) - model(x, t.flip(0))).abs().amax(dim=1)[[0, 2]].min() > 1e-3


def test_every_row_has_its_own_timestep():
    model = randomized(SMALL)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 400, 999])
    together = model(x, t)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_without_time_module_t_is_ignored_and_with_it_t_is_needed():
    model = ResNet.preset("small", num_classes=4, in_channels=1).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), model(x, torch.tensor([0, 999])))
    with pytest.raises(ValueError, match="timestep"):
        ResNet(SMALL)(x)


def test_rows_leak_into_each_others_gradients_in_training_mode_only():
    model = randomized(SMALL)
    x, t = torch.randn(4, 1, 8, 8), torch.full((4,), 300)

    def gradient_of_row_0(images):
        images = images.clone().requires_grad_()
        return torch.autograd.grad(model(images, t).log_softmax(1)[0, 2], images)[0]

    changed = x.clone()
    changed[1:] += 1
    gradient = gradient_of_row_0(x)
    assert gradient[1:].abs().max() == 0
    torch.testing.assert_close(gradient[0], gradient_of_row_0(changed)[0], rtol=1e-5, atol=1e-7)
    model.train()
    assert gradient_of_row_0(x)[1:].abs().max() > 0


@pytest.mark.parametrize("config", [SMALL, ResNetConfig(num_classes=5, blocks=(1, 2), width=8)])
def test_a_folded_network_has_the_logits_and_gradients_of_its_origin_and_no_batchnorm(config):
    model = randomized(config).double()  # in double precision no rounding turns a ReLU
    folded = model.fold()
    x, t = torch.randn(6, config.in_channels, 16, 16).double(), torch.arange(6) * 150

    def logits_and_gradient(network):
        images = x.clone().requires_grad_()
        logits = network(images, t)
        return logits, torch.autograd.grad(logits.log_softmax(1)[:, 2].sum(), images)[0]

    for own, other in zip(logits_and_gradient(model), logits_and_gradient(folded), strict=True):
        torch.testing.assert_close(other, own, rtol=1e-9, atol=1e-12)
    assert not any(isinstance(module, nn.BatchNorm2d) or module.training for module in folded.modules())
    assert not any(each.requires_grad for each in folded.parameters())
    assert all(each.requires_grad for each in model.parameters())


def test_a_classifier_guides_folded_and_one_of_an_earlier_version_as_it_did(tmp_path):
    def has_batchnorm():
        return any(isinstance(module, nn.BatchNorm2d) for module in open_surrogate(tmp_path, 2.0).classifier.modules())

    randomized(replace(SMALL, folded=True)).save(tmp_path)
    assert not has_batchnorm()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("folded")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert has_batchnorm()


def test_features_are_what_the_last_layer_reads():
    model = randomized(SMALL)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 7])
    features = model.features(x, t)
    assert features.shape == (2, 32)
    assert torch.equal(model.fc(features), model(x, t))


def test_save_and_load_round_trip(tmp_path):
    model = randomized(SMALL)
    model.save(tmp_path / "student")
    again = ResNet.load(tmp_path / "student")
    assert again.config == SMALL
    assert not again.training
    assert sorted(p.name for p in (tmp_path / "student").iterdir()) == ["config.json", "model.safetensors"]
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0, 999])
    assert torch.equal(model(x, t), again(x, t))
    assert set(model.state_dict()) == set(again.state_dict())


def test_batchnorm_is_the_only_normalization():
    kinds = {type(m) for m in ResNet.preset("resnet34", 10, time=True).modules() if "Norm" in type(m).__name__}
    assert kinds == {nn.BatchNorm2d}


def broken(tmp_path, how):
    ResNet(SMALL).save(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    match how:
        case "no weights":
            weights.unlink()
        case "no config":
            config.unlink()
        case "truncated weights":
            weights.write_bytes(weights.read_bytes()[:100])
        case "other network":
            save_file({"fc.weight": torch.zeros(2, 2)}, weights)
        case "unknown key":
            config.write_text(json.dumps({"num_classes": 3, "depth": 5}))
        case "not json":
            config.write_text("{")


@pytest.mark.parametrize(
    "how", ["no weights", "no config", "truncated weights", "other network", "unknown key", "not json"]
)
def test_a_broken_directory_is_one_clear_line(tmp_path, how):
    broken(tmp_path, how)
    with pytest.raises(UserError) as caught:
        ResNet.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"blocks": ()}, {"blocks": (1, 0)}, {"num_classes": 0}, {"stem": "other"}, {"time_dim": 6}]
)
def test_impossible_networks_are_refused(wrong):
    with pytest.raises(UserError):
        ResNetConfig(**({"num_classes": 3} | wrong))


def test_unknown_preset_is_refused():
    with pytest.raises(UserError, match="resnet18, resnet34, small"):
        ResNet.preset("resnet50", 10)

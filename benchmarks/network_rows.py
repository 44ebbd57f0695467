"""Rows of ``table.py`` in which networks run: the same work for us and for each peer.

Peers are imported where they are prepared, so that the table can be had without any of them.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from row import Array, Peer, Row, Run, Setup, largest
from torch import Tensor, nn

#: Side of the matrices whose product says what the machine can do.
_SQUARE = 2048


def network(width: int, levels: int) -> nn.Module:
    """Our 3D U-Net, one channel in and three labels out."""
    from delineate.networks import unet

    torch.manual_seed(0)
    return unet.build(unet.Config(width=width, levels=levels), 1, 3)


def monai_network(width: int, levels: int) -> nn.Module:
    """MONAI's of the same form, which it calls DynUNet."""
    from monai.networks.nets import DynUNet

    strides = [1, *[2] * (levels - 1)]
    return DynUNet(
        3, 1, 3, [3] * levels, strides, strides[1:],
        filters=[width * 2**i for i in range(levels)],
    )  # fmt: skip


def nnunet_network(width: int, levels: int) -> nn.Module:
    """nnU-Net's of the same form."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        1, levels, [width * 2**i for i in range(levels)], nn.Conv3d, 3,
        [1, *[2] * (levels - 1)], 2, 3, 2, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def _work(ours: float, theirs: float) -> float:
    """Share by which two amounts of multiplications differ."""
    return abs(theirs / ours - 1)


def training(setup: Setup) -> Row:
    from lightning_fabric import Fabric

    from delineate.core.case import Batch
    from delineate.core.context import Context
    from delineate.core.schema import Label, Schema
    from delineate.engine.budget import Pace
    from delineate.engine.loop import Loop
    from delineate.engine.settings import Settings
    from delineate.methods import supervised
    from delineate.networks import _cost

    width, levels, size, batch = (4, 3, 16, 2) if setup.tiny else (16, 4, 48, 2)
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (batch, *(size,) * 3), generator=generator).byte()
    image = label[:, None].float() + torch.randn((batch, 1, *(size,) * 3), generator=generator)
    net = network(width, levels)
    gmac = _cost.gmac(net, 1, (size,) * 3)
    schema = Schema((Label("a", 1), Label("b", 2)))
    loop = Loop(
        supervised.build(supervised.Config(), net, Context(3, 1, 3, schema)),
        lambda step, micro, divisor: Batch(image, label), Settings(), setup.folder,
        fabric=Fabric(accelerator="cpu", devices=1), seed=0, pace=Pace(10**6, None),
    )  # fmt: skip
    loop.pace.start()

    def ours() -> float:
        loop._step()
        loop.pace.tick()
        return gmac

    def peer() -> Run:
        from monai.losses import DiceCELoss
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        torch.manual_seed(0)
        theirs = monai_network(width, levels)
        cost = _cost.gmac(theirs, 1, (size,) * 3)
        averaged = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        optimiser = torch.optim.AdamW(theirs.parameters(), 2e-3, weight_decay=1e-4)

        def step() -> float:
            theirs.train()
            criterion(theirs(image), label[:, None].long()).backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 12.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            averaged.update_parameters(theirs)
            return cost

        return step

    what = (
        f"U-Net of width {width}, {levels} levels, {batch} patches of {size}³, Dice + cross-entropy"
        ", AdamW, clipping, averaged weights; ours also guards, schedules and counts"
    )
    return Row(what, ours, [Peer("MONAI network and loss, plain loop", peer, _work, 0.01, "work")])


def augmentation(setup: Setup) -> Row:
    from delineate.augment import intensity, spatial

    region, patch, batch = (16, 12, 2) if setup.tiny else (80, 64, 2)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((batch, 1, *(region,) * 3), generator=generator)
    label = torch.randint(0, 3, (batch, *(region,) * 3), generator=generator).byte()
    always = intensity.Config(
        noise=1, blur=1, brightness=1, contrast=1, low_resolution=1, gamma=1, inverted_gamma=1
    )

    def ours() -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(0)
        matrices = spatial.draw(spatial.Config(probability=1), batch, (1,) * 3, (0, 1, 2), draws)
        moved, mask = spatial.apply(matrices, image, label, (patch,) * 3)
        actions = intensity.draw(always, batch, draws)
        return intensity.apply(actions, moved, draws), mask

    def monai() -> Run:
        from monai.data import get_track_meta, set_track_meta

        chain = monai_chain(patch)

        def run() -> list[Any]:
            pairs = zip(image, label, strict=True)
            tracked = get_track_meta()
            set_track_meta(False)
            try:
                return [chain({"image": i, "label": m[None]}) for i, m in pairs]
            finally:
                set_track_meta(tracked)

        return run

    def nnunet() -> Run:
        chain = nnunet_chain(patch)

        def run() -> list[Any]:
            pairs = zip(image, label, strict=True)
            return [chain(image=i, segmentation=m[None].to(torch.int16)) for i, m in pairs]

        return run

    what = (
        f"{batch} patches of {patch}³ out of {region}³, image and labels: rotation, scale, shift, "
        "mirrors, noise, blur, brightness, contrast, low resolution and gamma twice, each done"
    )
    unit = "drawn at random: only times compare"
    peers: dict[str, Callable[[], Run]] = {"MONAI": monai, "nnU-Net batchgeneratorsv2": nnunet}
    return Row(what, ours, [Peer(name, make, None, 0, unit) for name, make in peers.items()])


def monai_chain(patch: int) -> Callable[[Any], Any]:
    """MONAI's counterparts of our augmentation, each always done."""
    import monai.transforms as mt

    limit = (np.radians(15),) * 3
    both, image, gamma = ("image", "label"), ("image",), (0.7, 1.5)
    return mt.Compose([
        mt.RandAffined(
            both, (patch,) * 3, 1.0, limit, None, (0.05 * patch,) * 3, ((-0.3, 0.4),) * 3,
            ("bilinear", "nearest"), "zeros",
        ),
        *(mt.RandFlipd(both, 0.5, axis) for axis in range(3)),
        mt.RandGaussianNoised(image, 1.0, std=0.1),
        mt.RandGaussianSmoothd(image, *((0.5, 1.0),) * 3, prob=1.0),
        mt.RandScaleIntensityd(image, 0.25, 1.0),
        mt.RandScaleIntensityFixedMeand(image, 0.25, preserve_range=True, prob=1.0),
        mt.RandSimulateLowResolutiond(image, 1.0, "area"),
        mt.RandAdjustContrastd(image, 1.0, gamma, invert_image=True, retain_stats=True),
        mt.RandAdjustContrastd(image, 1.0, gamma, retain_stats=True),
    ])  # fmt: skip


def nnunet_chain(patch: int) -> Callable[..., Any]:
    """nnU-Net's own augmentation but for the chances: each always done."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    limit, gain, gamma = np.radians(15), BGContrast((0.75, 1.25)), BGContrast((0.7, 1.5))
    return ComposeTransforms([
        SpatialTransform(
            (patch,) * 3, 0, False, p_elastic_deform=0, p_rotation=1, rotation=(-limit, limit),
            p_scaling=1, scaling=(0.7, 1.4), p_synchronize_scaling_across_axes=1,
        ),
        GaussianNoiseTransform((0, 0.01), 1, True),
        GaussianBlurTransform((0.5, 1.0), False, False, 1, benchmark=True),
        MultiplicativeBrightnessTransform(gain, False, 1),
        ContrastTransform(gain, True, False, 1),
        SimulateLowResolutionTransform((0.5, 1), False, True, None, None, 1),
        GammaTransform(gamma, 1, False, 1, 1),
        GammaTransform(gamma, 0, False, 1, 1),
        MirrorTransform((0, 1, 2)),
    ])  # fmt: skip


def forward(setup: Setup) -> Row:
    from delineate.inference.runtimes.torch import segmenter
    from delineate.networks import _cost

    width, levels, size = (4, 3, 16) if setup.tiny else (16, 4, 64)
    windows = np.random.default_rng(0).normal(size=(1, 1, *(size,) * 3)).astype(np.float32)
    net = network(width, levels).eval()
    gmac = _cost.gmac(net, 1, (size,) * 3)
    infer = segmenter(net, "cpu")
    square = 64 if setup.tiny else _SQUARE

    def ceiling() -> Run:
        a = torch.ones((square, square))
        return lambda: a @ a

    def other(build: Callable[[int, int], nn.Module]) -> Callable[[], Run]:
        def prepare() -> Run:
            theirs = build(width, levels).eval()
            if abs(_cost.gmac(theirs, 1, (size,) * 3) / gmac - 1) > 0.01:
                raise ValueError(f"expected a network of {gmac:.3g} GMAC of {build.__name__}")
            apply = segmenter(theirs, "cpu")
            return lambda: apply(windows)

        return prepare

    def onnx() -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = setup.threads, 3
        graph = onnx_graph(net, torch.from_numpy(windows))
        session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        (name,) = [value.name for value in session.get_inputs()]
        return lambda: {"probabilities": session.run(None, {name: windows})[0]}

    def openvino() -> Run:
        import openvino

        maps = nn.Sequential(net, nn.Softmax(1)).eval()
        model = openvino.convert_model(maps, example_input=torch.from_numpy(windows))
        model.reshape(list(windows.shape))
        settings = {"INFERENCE_NUM_THREADS": setup.threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(model, "CPU", settings)
        return lambda: {"probabilities": compiled(windows)[0]}

    def apart(a: Any, b: Any) -> float:
        return largest(a["probabilities"], b["probabilities"])

    same = "same work, other weights: only times compare"
    scale = gmac * 1e9 / square**3
    return Row(
        f"U-Net of width {width}, {levels} levels, one patch of {size}³, {2 * gmac:.3g} GFLOP",
        lambda: infer(windows),
        [
            Peer(
                "matrix product: the machine's peak",
                ceiling,
                None,
                0,
                "the ratio is our share of it",
                scale,
            ),
            Peer("MONAI DynUNet", other(monai_network), None, 0, same),
            Peer("nnU-Net PlainConvUNet", other(nnunet_network), None, 0, same),
            Peer("ONNX Runtime", onnx, apart, 1e-4, "probabilities"),
            Peer("OpenVINO", openvino, apart, 1e-4, "probabilities"),
        ],
        2 * gmac,
    )


def onnx_graph(net: nn.Module, windows: Tensor) -> bytes:
    """The network with softmax as an ONNX graph; the exporter's chatter is left out."""
    import onnxscript  # noqa: F401  torch exports with it

    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(
                nn.Sequential(net, nn.Softmax(1)).eval(), (windows,), dynamo=True, verbose=False
            )
    finally:
        logging.disable(logging.NOTSET)
    if program is None:
        raise ValueError("no graph came out")
    return bytes(program.model_proto.SerializeToString())


def sliding(setup: Setup) -> Row:
    from delineate.inference.runtimes.torch import segmenter
    from delineate.inference.sliding_window import (
        gaussian_weights,
        sliding_window,
        windows_at_once,
    )

    width, levels, patch = (4, 3, 16) if setup.tiny else (8, 3, 48)
    shape = (2 * patch,) * 3  # both then put their windows at the same places
    net = network(width, levels).eval()
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    infer, batch = segmenter(net, "cpu"), windows_at_once((patch,) * 3, "cpu")
    maps = {"probabilities": 3}

    def ours() -> Array:
        return sliding_window(infer, image, (patch,) * 3, maps=maps, batch=batch)["probabilities"]

    def peer() -> Run:
        from monai.inferers import sliding_window_inference

        # of its own weights the smallest are raised to 1e-3, which changes the result
        factor = torch.from_numpy(gaussian_weights(patch)).float()
        weights = torch.einsum("i,j,k->ijk", factor, factor, factor)[None, None]

        def probabilities(x: Tensor) -> Tensor:
            return torch.softmax(net(x), 1)

        @torch.inference_mode()
        def run() -> Array:
            return sliding_window_inference(
                torch.from_numpy(image)[None], (patch,) * 3, batch, probabilities, 0.5, "gaussian",
                roi_weight_map=weights,
            )[0].numpy()  # fmt: skip

        return run

    return Row(
        f"{patch}³ windows over {shape[0]}³, half overlapping, Gaussian weights, {batch} at once, "
        f"U-Net of width {width}, {levels} levels",
        ours,
        [Peer("MONAI sliding_window_inference", peer, largest, 1e-4, "probabilities")],
    )


ROWS: dict[str, Callable[[Setup], Row]] = {
    "training": training,
    "augmentation": augmentation,
    "forward": forward,
    "sliding-window": sliding,
}

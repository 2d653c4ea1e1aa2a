"""Write the zoo's long, regular nets: GoogLeNet, ResNet-50 and VGG-16.

    python tools/make_zoo.py           # into zoo/
    python tools/make_zoo.py -check    # write nothing; exit 1 where a file is stale

Layer names are those of the published Caffe models, so that their weights load.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

_COLUMNS = 100
ZOO = Path(__file__).resolve().parents[1] / "zoo"


class Net:
    """Text that grows by one layer per call; every call returns the name of the layer's top."""

    def __init__(self, name: str, comment: str, train_batch: int, test_batch: int) -> None:
        about = "".join(f"# {line}".rstrip() + "\n" for line in comment.strip().splitlines())
        self._parts = [
            f"{about}#\n# Made by tools/make_zoo.py: edit that, or a copy of this.\n\n"
            f'name: "{name}"\n\n'
        ]
        for phase, part, batch in (("TRAIN", "train", train_batch), ("TEST", "val", test_batch)):
            mirror = "true" if phase == "TRAIN" else "false"
            self._parts.append(
                'layer {\n  name: "data" type: "Data" top: "data" top: "label"\n'
                f"  include {{ phase: {phase} }}\n"
                f"  transform_param {{\n    mirror: {mirror} crop_size: 224\n"
                "    mean_value: 104 mean_value: 117 mean_value: 123  # blue, green, red\n  }\n"
                f'  data_param {{ source: "../../build/imagenet/{part}_lmdb" backend: LMDB '
                f"batch_size: {batch} }}\n}}\n"
            )

    @property
    def text(self) -> str:
        """The net so far."""
        return "".join(self._parts)

    def comment(self, text: str) -> None:
        """Add a comment line, with a blank one before it."""
        self._parts.append(f"\n# {text}\n")

    def layer(self, name: str, kind: str, bottoms: str, top: str, *lines: str) -> str:
        """Add a layer; `bottoms` are separated by blanks, `lines` are the text after its blobs."""
        head = f'name: "{name}" type: "{kind}"'
        blobs = [*(f'bottom: "{bottom}"' for bottom in bottoms.split()), f'top: "{top}"']
        one_line = f"layer {{ {' '.join((head, *blobs))} }}"
        if not lines and len(one_line) <= _COLUMNS:
            self._parts.append(one_line + "\n")
            return top
        first = [" ".join((head, *blobs))]
        if len(first[0]) > _COLUMNS - 2:
            first = [head, " ".join(blobs)]
        if len(first[-1]) > _COLUMNS - 2:
            first = [head, *blobs]
        self._parts += ["layer {\n", *(f"  {line}\n" for line in (*first, *lines)), "}\n"]
        return top

    def relu(self, name: str, blob: str) -> str:
        """Add an in-place ReLU."""
        return self.layer(name, "ReLU", blob, blob)

    def conv(
        self,
        name: str,
        bottom: str,
        outputs: int,
        kernel: int,
        *,
        pad: int = 0,
        stride: int = 1,
        filler: str,
        bias: float | None = 0.0,
    ) -> str:
        """Add a convolution; with `bias` None it has none, otherwise that is its first value."""
        shape = f"num_output: {outputs} kernel_size: {kernel}"
        shape += f" pad: {pad}" if pad else ""
        shape += f" stride: {stride}" if stride > 1 else ""
        return self._weighted(name, "Convolution", bottom, shape, filler, bias)

    def inner_product(
        self, name: str, bottom: str, outputs: int, *, filler: str, bias: float | None = 0.0
    ) -> str:
        """Add a fully connected layer."""
        return self._weighted(name, "InnerProduct", bottom, f"num_output: {outputs}", filler, bias)

    def _weighted(
        self, name: str, kind: str, bottom: str, shape: str, filler: str, bias: float | None
    ) -> str:
        message = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}[kind]
        rates = "param { lr_mult: 1 decay_mult: 1 }"
        fillers = f"weight_filler {{ {filler} }}"
        if bias is None:
            shape += " bias_term: false"
        else:
            rates += " param { lr_mult: 2 decay_mult: 0 }"
            fillers += f' bias_filler {{ type: "constant" value: {bias:g} }}'
        return self.layer(
            name, kind, bottom, name, rates, f"{message} {{", f"  {shape}", f"  {fillers}", "}"
        )

    def pool(
        self, name: str, bottom: str, method: str, kernel: int, stride: int, pad: int = 0
    ) -> str:
        """Add a pooling layer."""
        padding = f" pad: {pad}" if pad else ""
        return self.layer(
            name,
            "Pooling",
            bottom,
            name,
            f"pooling_param {{ pool: {method} kernel_size: {kernel} stride: {stride}{padding} }}",
        )

    def norm(self, name: str, bottom: str) -> str:
        """Add AlexNet's local response normalisation."""
        return self.layer(
            name, "LRN", bottom, name, "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
        )

    def drop(self, name: str, blob: str, ratio: float) -> str:
        """Add an in-place Dropout."""
        return self.layer(
            name, "Dropout", blob, blob, f"dropout_param {{ dropout_ratio: {ratio:g} }}"
        )

    def loss(self, name: str, scores: str, top: str, weight: float = 1.0) -> None:
        """Add the softmax loss, with its weight where it is not 1."""
        lines = [] if weight == 1 else [f"loss_weight: {weight:g}"]
        self.layer(name, "SoftmaxWithLoss", f"{scores} label", top, *lines)

    def accuracy(self, name: str, scores: str, top_k: int) -> None:
        """Add an accuracy, in the TEST phase only."""
        lines = ["include { phase: TEST }"]
        if top_k > 1:
            lines.append(f"accuracy_param {{ top_k: {top_k} }}")
        self.layer(name, "Accuracy", f"{scores} label", name, *lines)


def googlenet() -> str:
    """Return the net of Szegedy et al., 2015, as BVLC's model of that name."""
    net = Net(
        "GoogLeNet",
        """
GoogLeNet: Szegedy et al., "Going deeper with convolutions", CVPR 2015. Nine inception modules and
two auxiliary losses, which only training uses.
""",
        train_batch=32,
        test_batch=50,
    )
    filler = 'type: "xavier"'

    def conv(name: str, relu: str, bottom: str, outputs: int, kernel: int, **more: int) -> str:
        net.conv(name, bottom, outputs, kernel, filler=filler, bias=0.2, **more)
        return net.relu(relu, name)

    def inception(
        name: str, x: str, n1: int, n3r: int, n3: int, n5r: int, n5: int, proj: int
    ) -> str:
        net.comment(f"{name}: {n1} + {n3} + {n5} + {proj} = {n1 + n3 + n5 + proj} channels")
        part = f"inception_{name}/"
        one = conv(f"{part}1x1", f"{part}relu_1x1", x, n1, 1)
        narrow = conv(f"{part}3x3_reduce", f"{part}relu_3x3_reduce", x, n3r, 1)
        three = conv(f"{part}3x3", f"{part}relu_3x3", narrow, n3, 3, pad=1)
        narrow = conv(f"{part}5x5_reduce", f"{part}relu_5x5_reduce", x, n5r, 1)
        five = conv(f"{part}5x5", f"{part}relu_5x5", narrow, n5, 5, pad=2)
        pooled = net.pool(f"{part}pool", x, "MAX", 3, 1, pad=1)
        pooled = conv(f"{part}pool_proj", f"{part}relu_pool_proj", pooled, proj, 1)
        return net.layer(
            f"{part}output", "Concat", f"{one} {three} {five} {pooled}", f"{part}output"
        )

    def auxiliary(loss: str, x: str) -> None:
        net.comment(f"{loss}: an auxiliary classifier that feeds gradient into the middle")
        x = net.pool(f"{loss}/ave_pool", x, "AVE", 5, 3)
        x = conv(f"{loss}/conv", f"{loss}/relu_conv", x, 128, 1)
        x = net.inner_product(f"{loss}/fc", x, 1024, filler=filler, bias=0.2)
        net.relu(f"{loss}/relu_fc", x)
        net.drop(f"{loss}/drop_fc", x, 0.7)
        x = net.inner_product(f"{loss}/classifier", x, 1000, filler=filler)
        net.loss(f"{loss}/loss", x, f"{loss}/loss1", 0.3)

    net.comment("3 x 224 x 224 -> 64 x 56 x 56 -> 192 x 28 x 28")
    x = conv("conv1/7x7_s2", "conv1/relu_7x7", "data", 64, 7, pad=3, stride=2)
    x = net.norm("pool1/norm1", net.pool("pool1/3x3_s2", x, "MAX", 3, 2))
    x = conv("conv2/3x3_reduce", "conv2/relu_3x3_reduce", x, 64, 1)
    x = conv("conv2/3x3", "conv2/relu_3x3", x, 192, 3, pad=1)
    x = net.pool("pool2/3x3_s2", net.norm("conv2/norm2", x), "MAX", 3, 2)

    x = inception("3a", x, 64, 96, 128, 16, 32, 32)
    x = inception("3b", x, 128, 128, 192, 32, 96, 64)
    x = net.pool("pool3/3x3_s2", x, "MAX", 3, 2)
    x = inception("4a", x, 192, 96, 208, 16, 48, 64)
    auxiliary("loss1", x)
    x = inception("4b", x, 160, 112, 224, 24, 64, 64)
    x = inception("4c", x, 128, 128, 256, 24, 64, 64)
    x = inception("4d", x, 112, 144, 288, 32, 64, 64)
    auxiliary("loss2", x)
    x = inception("4e", x, 256, 160, 320, 32, 128, 128)
    x = net.pool("pool4/3x3_s2", x, "MAX", 3, 2)
    x = inception("5a", x, 256, 160, 320, 32, 128, 128)
    x = inception("5b", x, 384, 192, 384, 48, 128, 128)

    net.comment("the classifier")
    x = net.drop("pool5/drop_7x7_s1", net.pool("pool5/7x7_s1", x, "AVE", 7, 1), 0.4)
    x = net.inner_product("loss3/classifier", x, 1000, filler=filler)
    net.loss("loss3/loss3", x, "loss3/loss3")
    net.accuracy("loss3/top-1", x, 1)
    net.accuracy("loss3/top-5", x, 5)
    return net.text


def resnet50() -> str:
    """Return the 50-layer net of He et al., 2016, as the authors' model."""
    return resnet(50, (3, 4, 6, 3))


def resnet(depth: int, blocks: tuple[int, int, int, int]) -> str:
    """Return a net of He et al., 2016, with so many blocks in its four stages."""
    net = Net(
        f"ResNet-{depth}",
        f"ResNet-{depth}: He, Zhang, Ren and Sun, "
        '"Deep residual learning for image recognition", CVPR 2016. As\n'
        "in the authors' model, a stage's first 1x1 convolution has the stride, and conv1 keeps "
        "its bias.",
        train_batch=32,
        test_batch=25,
    )
    filler = 'type: "msra"'

    def conv(
        name: str, bottom: str, outputs: int, kernel: int, *, relu: str = "", pad: int = 0,
        stride: int = 1, bias: float | None = None,
    ) -> str:  # fmt: skip
        x = net.conv(
            name, bottom, outputs, kernel, pad=pad, stride=stride, filler=filler, bias=bias
        )
        unit = name.removeprefix("res") if name.startswith("res") else f"_{name}"
        net.layer(f"bn{unit}", "BatchNorm", x, x)
        net.layer(f"scale{unit}", "Scale", x, x, "scale_param { bias_term: true }")
        return net.relu(relu, x) if relu else x

    def block(name: str, x: str, width: int, *, stride: int, widen: bool) -> str:
        net.comment(f"{name}: {4 * width} channels")
        shortcut = x
        if widen:
            shortcut = conv(f"res{name}_branch1", x, 4 * width, 1, stride=stride)
        branch = f"res{name}_branch2"
        x = conv(f"{branch}a", x, width, 1, stride=stride, relu=f"{branch}a_relu")
        x = conv(f"{branch}b", x, width, 3, pad=1, relu=f"{branch}b_relu")
        x = conv(f"{branch}c", x, 4 * width, 1)
        net.layer(f"res{name}", "Eltwise", f"{shortcut} {x}", f"res{name}")
        return net.relu(f"res{name}_relu", f"res{name}")

    net.comment("3 x 224 x 224 -> 64 x 56 x 56")
    x = conv("conv1", "data", 64, 7, pad=3, stride=2, relu="conv1_relu", bias=0.0)
    x = net.pool("pool1", x, "MAX", 3, 2)
    for stage, count in enumerate(blocks, 2):
        for i in range(count):
            first = i == 0
            stride = 2 if first and stage > 2 else 1
            # The authors' models count the blocks of long stages: 4a, 4b1, 4b2, ...
            letter = "abcdef"[i] if count <= 6 else f"b{i}" if i else "a"
            x = block(f"{stage}{letter}", x, 16 << stage, stride=stride, widen=first)

    net.comment("the classifier")
    x = net.inner_product("fc1000", net.pool("pool5", x, "AVE", 7, 1), 1000, filler=filler)
    net.loss("loss", x, "loss")
    net.accuracy("accuracy", x, 1)
    net.accuracy("accuracy_top5", x, 5)
    return net.text


def vgg16() -> str:
    """Return configuration D of Simonyan and Zisserman, 2015."""
    net = Net(
        "VGG-16",
        """
VGG-16: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
recognition", ICLR 2015, configuration D. 138,357,544 parameters. The fillers are He's, so that it
trains from the start without the paper's detour over shallower nets.
""",
        train_batch=64,
        test_batch=25,
    )
    filler = 'type: "msra"'
    x = "data"
    for stage, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        side = 224 >> stage
        net.comment(f"-> {width} x {side} x {side}")
        for i in range(1, count + 1):
            x = net.conv(f"conv{stage}_{i}", x, width, 3, pad=1, filler=filler)
            net.relu(f"relu{stage}_{i}", x)
        x = net.pool(f"pool{stage}", x, "MAX", 2, 2)

    net.comment("the classifier")
    for i in (6, 7):
        x = net.inner_product(f"fc{i}", x, 4096, filler=filler)
        net.relu(f"relu{i}", x)
        net.drop(f"drop{i}", x, 0.5)
    x = net.inner_product("fc8", x, 1000, filler='type: "gaussian" std: 0.01')
    net.loss("loss", x, "loss")
    net.accuracy("accuracy", x, 1)
    net.accuracy("accuracy_top5", x, 5)
    return net.text


NETS: dict[str, Callable[[], str]] = {"googlenet": googlenet, "resnet50": resnet50, "vgg16": vgg16}


def main() -> None:
    """Write the files, or compare them with what would be written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-check", "--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    stale = []
    for name, build in NETS.items():
        path = ZOO / name / f"{name}_train_test.prototxt"
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != build():
                stale.append(str(path))
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(build(), encoding="utf-8", newline="\n")
    if stale:
        sys.exit(f"stale, run tools/make_zoo.py: {', '.join(stale)}")


if __name__ == "__main__":
    main()

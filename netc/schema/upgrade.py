"""Old formats of nets and solvers, rewritten as the current one when they are read.

Caffe's text and weights files come in three generations: V0 (`layers { layer { type: "conv" } }`,
2013), V1 (`layers { type: CONVOLUTION }`, 2014) and the current `layer { type: "Convolution" }`.
What is rewritten, and into what, is BVLC Caffe 1.0's; where Caffe goes on after a complaint, or
drops something without one, this is an error.

Everything works on messages, those of `netc_pb2` and of `weights_pb2` alike, so that weights files
are upgraded by the same code. Places in the text, where there is one, go along.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from netc.errors import NetcError, Problem, Span, in_order, nearest
from netc.schema.places import Places

M = TypeVar("M", bound=Message)

V1_TYPE_NAMES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
    # CaffeWindows
    "BATCH_NORM": "BatchNorm",
    "BN": "BN",
    "ELTWISE_AFFINE": "EltwiseAffine",
    "INSANITY": "Insanity",
    "LOCAL": "Local",
    "NORMALIZE": "Normalize",
    "ROIPOOLING": "ROIPooling",
    "TRIPLET_LOSS": "TripletLoss",
    # CRF-RNN, DeconvNet, DeepLab, HED
    "CROP": "Crop",
    "DENSE_CRF": "DenseCRF",
    "ELTWISE_ACCURACY": "EltwiseAccuracy",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INTERP": "Interp",
    "MCWINDOW_DATA": "MCWindowData",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield",
    "UNPOOLING": "Unpooling",
    "WINDOW_SEG_DATA": "WindowSegData",
    # C3D
    "CONVOLUTION3D": "Convolution3D",
    "DECONVOLUTION3D": "Deconvolution3D",
    "POOLING3D": "Pooling3D",
    "VIDEO_DATA": "VideoData",
    "VIDEO_SEGMENTATION_DATA": "VideoSegmentationData",
    "VIDEO_WITH_VOXEL_TRUTH_DATA": "VideoWithVoxelTruthData",
    "VOXEL_SOFTMAX": "Softmax",
    "VOXEL_SOFTMAX_LOSS": "VoxelSoftmaxWithLoss",
}
"""The current name of each type of the V1 format."""

# V0 type -> V1 type, and the message that holds the settings of the type.
_V0_TYPES = {
    "accuracy": ("ACCURACY", ""),
    "bnll": ("BNLL", ""),
    "concat": ("CONCAT", "concat_param"),
    "conv": ("CONVOLUTION", "convolution_param"),
    "data": ("DATA", "data_param"),
    "dropout": ("DROPOUT", "dropout_param"),
    "euclidean_loss": ("EUCLIDEAN_LOSS", ""),
    "flatten": ("FLATTEN", ""),
    "hdf5_data": ("HDF5_DATA", "hdf5_data_param"),
    "hdf5_output": ("HDF5_OUTPUT", ""),
    "im2col": ("IM2COL", ""),
    "images": ("IMAGE_DATA", "image_data_param"),
    "infogain_loss": ("INFOGAIN_LOSS", "infogain_loss_param"),
    "innerproduct": ("INNER_PRODUCT", "inner_product_param"),
    "lrn": ("LRN", "lrn_param"),
    "multinomial_logistic_loss": ("MULTINOMIAL_LOGISTIC_LOSS", ""),
    "pool": ("POOLING", "pooling_param"),
    "relu": ("RELU", ""),
    "sigmoid": ("SIGMOID", ""),
    "softmax": ("SOFTMAX", ""),
    "softmax_loss": ("SOFTMAX_LOSS", ""),
    "split": ("SPLIT", ""),
    "tanh": ("TANH", ""),
    "window_data": ("WINDOW_DATA", "window_data_param"),
}

# V0 field -> its current name, and the V0 types that may set it.
_V0_SETTINGS: dict[str, tuple[str, str]] = {
    "num_output": ("num_output", "conv innerproduct"),
    "biasterm": ("bias_term", "conv innerproduct"),
    "weight_filler": ("weight_filler", "conv innerproduct"),
    "bias_filler": ("bias_filler", "conv innerproduct"),
    "pad": ("pad", "conv pool"),
    "kernelsize": ("kernel_size", "conv pool"),
    "group": ("group", "conv"),
    "stride": ("stride", "conv pool"),
    "pool": ("pool", "pool"),
    "dropout_ratio": ("dropout_ratio", "dropout"),
    "local_size": ("local_size", "lrn"),
    "alpha": ("alpha", "lrn"),
    "beta": ("beta", "lrn"),
    "k": ("k", "lrn"),
    "source": ("source", "data hdf5_data images window_data infogain_loss"),
    "batchsize": ("batch_size", "data hdf5_data images window_data"),
    "rand_skip": ("rand_skip", "data images"),
    "shuffle_images": ("shuffle", "images"),
    "new_height": ("new_height", "images"),
    "new_width": ("new_width", "images"),
    "concat_dim": ("concat_dim", "concat"),
    "det_fg_threshold": ("fg_threshold", "window_data"),
    "det_bg_threshold": ("bg_threshold", "window_data"),
    "det_fg_fraction": ("fg_fraction", "window_data"),
    "det_context_pad": ("context_pad", "window_data"),
    "det_crop_mode": ("crop_mode", "window_data"),
}

# V0 fields that any type may set: what becomes of them in transform_param, or in the layer itself.
_V0_TRANSFORMS = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}
# V0 types that take the place of "window_data" when a net is trained on whole images. Nets for that
# kept the settings of windows, which Caffe leaves out, and goes on.
_V0_WHOLE_IMAGES = ("data", "images")

_V0_KEPT = ("name", "blobs", "blobs_lr", "weight_decay")

# V1 types whose settings held the transformation before transform_param did.
_V1_TRANSFORMED = {
    "DATA": "data_param",
    "IMAGE_DATA": "image_data_param",
    "WINDOW_DATA": "window_data_param",
    "MCWINDOW_DATA": "mcwindow_data_param",
}
_MOVED_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")
# Those of C3D have one more.
_VIDEO_TYPES = ("VIDEO_DATA", "VIDEO_SEGMENTATION_DATA", "VIDEO_WITH_VOXEL_TRUTH_DATA")
_V1_TRANSFORMED |= dict.fromkeys(_VIDEO_TYPES, "image_data_param")

# V1 field with one value per learned array -> its field in ParamSpec.
_V1_PARAM_FIELDS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}

# V1 types of C3D whose settings its second version moved: the message then, and the one now.
_V1_MOVED = {
    "CONVOLUTION3D": ("convolution_param", "convolution3d_param"),
    "DECONVOLUTION3D": ("convolution_param", "convolution3d_param"),
    "POOLING3D": ("pooling_param", "pooling3d_param"),
    "VIDEO_DATA": ("image_data_param", "video_data_param"),
}

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
    "SAG": "SAG",
}


def upgrade_net(net: M, *, for_weights: bool = False) -> tuple[M, list[str]]:
    """Return a net in the current format, and what was changed in words.

    `net` is a NetParameter of `netc_pb2` or `weights_pb2`; it is left as it is, and returned itself
    where nothing needs to change. `for_weights` says that only the learned arrays of its layers are
    of interest: then its inputs may be incomplete, as they are in old caffemodel files.

    Raises NetcError for what has no counterpart in the current format.
    """
    new, _, changes = upgrade_net_and_places(net, None, for_weights=for_weights)
    return new, changes


def upgrade_net_and_places(
    net: M, places: Places | None, *, for_weights: bool = False
) -> tuple[M, Places, list[str]]:
    """Do what `upgrade_net` does, and return the places of the upgraded net too.

    `places` is changed to be those.
    """
    if places is None:
        places = Places(Span("<net>"))
    if not _needs_upgrade(net):
        return net, places, []
    new = type(net)()
    new.CopyFrom(net)
    upgrade = _NetUpgrade(new, places, for_weights)
    upgrade.run()
    return new, places, upgrade.changes


def upgrade_solver(solver: M, places: Places | None = None) -> tuple[M, list[str]]:
    """Return a SolverParameter in the current format, and what was changed in words.

    Its inline nets are not touched. `places`, where given, is changed along.
    """
    old: Any = solver
    places = places or Places(Span("<solver>"))
    new: Any = type(old)()
    new.CopyFrom(solver)
    changes: list[str] = []
    if _never_tests(old):
        new.ClearField("test_iter")
        places.fields.pop("test_iter", None)
        changes.append("test_iter left out: without a test net and with test_interval 0 of no use")
    if not old.HasField("solver_type"):
        return (new, changes) if changes else (solver, [])
    if old.HasField("type"):
        problem = Problem(
            "solver_type and type are both set",
            places.find("solver_type").span,
            expected="type alone",
            got=f'type: "{old.type}"',
            hint="delete solver_type",
        )
        raise NetcError(problem)
    enum = new.DESCRIPTOR.fields_by_name["solver_type"].enum_type
    name = enum.values_by_number[new.solver_type].name
    new.type = _SOLVER_TYPES[name]
    new.ClearField("solver_type")
    places.move("solver_type", places, "type")
    return new, [*changes, f'solver_type: {name} is now type: "{new.type}"']


def _never_tests(solver: Any) -> bool:
    """Tell whether a solver says that it never tests, and how long, as those of early 2014 may."""
    fields = ("train_net", "train_net_param")
    trained = any(solver.HasField(name) for name in fields)
    tested = solver.test_net or solver.test_net_param
    never = solver.HasField("test_interval") and not solver.test_interval
    return bool(solver.test_iter and trained and not tested and never)


def _needs_upgrade(net: Any) -> bool:
    return bool(
        net.layers
        or net.input
        or net.input_dim
        or net.input_shape
        or any(_is_old_batch_norm(layer) for layer in net.layer)
        or _has_intel_batch_norms(net)
        or any(_holes(layer) for layer in net.layer)
    )


def _is_old_batch_norm(layer: Any) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == 3


def _has_intel_batch_norms(net: Any) -> bool:
    # A net read for its weights alone has no such settings.
    if "bn_stats_batch_size" not in net.DESCRIPTOR.fields_by_name:
        return False
    return any([net.HasField("bn_stats_batch_size"), *map(_has_intel_filler, net.layer)])


def _has_intel_filler(layer: Any) -> bool:
    return layer.type == "BatchNorm" and bool(layer.batch_norm_param.HasField("filler"))


def _holes(layer: Any) -> list[str]:
    """Return the fields by which DeepLab's convolutions say their dilation."""
    # A net read for its weights alone has no settings.
    if "convolution_param" not in layer.DESCRIPTOR.fields_by_name:
        return []
    param = layer.convolution_param
    return [name for name in ("hole", "hole_h", "hole_w") if param.HasField(name)]


def _assign(message: Any, name: str, value: Any) -> None:
    """Set a field from one of the same type; a repeated one gets a single value appended."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        getattr(message, name).append(value)
    elif field.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def _enum_name(message: Any, name: str) -> str:
    enum = message.DESCRIPTOR.fields_by_name[name].enum_type
    return str(enum.values_by_number[getattr(message, name)].name)


def _quote(names: list[str], most: int = 5) -> str:
    """Return "'a', 'b' and 7 more"."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass
class _NetUpgrade:
    """Changes `net` and `places` in step."""

    net: Any
    places: Places
    for_weights: bool
    changes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def run(self) -> None:
        self._upgrade_layers()
        self._upgrade_inputs()
        self._upgrade_batch_norms()
        if _has_intel_batch_norms(self.net):
            self._upgrade_intel_batch_norms()
        self._upgrade_holes()
        if self.problems:
            raise NetcError(*in_order(self.problems))

    def _add(
        self,
        what: str,
        span: Span,
        layer: str = "",
        expected: str = "",
        got: str = "",
        hint: str = "",
    ) -> None:
        self.problems.append(Problem(what, span, layer, expected, got, hint))

    # V0 and V1 layers

    def _upgrade_layers(self) -> None:
        net = self.net
        if not net.layers:
            return
        if net.layer:
            self._add(
                "the net has both 'layer' and 'layers'",
                self.places.find("layers", 0).span,
                expected='either layer { type: "ReLU" } or layers { type: RELU } throughout',
                got=f"{len(net.layer)} layer, {len(net.layers)} layers",
                hint="upgrade the file that the old layers come from with `netc upgrade`",
            )
            net.ClearField("layers")
            return
        paddings = _Paddings(self)
        old_places = self.places.fields.pop("layers", [])
        v0 = v1 = 0
        for index, old in enumerate(net.layers):
            if index in paddings.folded:
                continue
            place = old_places[index] if index < len(old_places) else Places(self.places.span)
            layer = old
            if old.HasField("layer"):
                layer = self._from_v0(old, place, paddings, index)
                v0 += 1
            else:
                v1 += 1
            self._move_transforms(layer, place)
            new = net.layer.add()
            self._to_current(layer, place, new)
            self._move_settings(_enum_name(layer, "type"), new, place)
            self.places.add("layer", place)
        net.ClearField("layers")
        moved, self.changes = self.changes, []
        for count, example in (
            (v0, 'layers { layer { type: "conv" } }'),
            (v1, "layers { type: CONVOLUTION }"),
        ):
            if count:
                self.changes.append(
                    f"{count} layer{'s' * (count > 1)} of the form {example} rewritten as "
                    'layer { type: "Convolution" }'
                )
        self.changes += paddings.changes + moved

    def _from_v0(self, old: Any, place: Places, paddings: _Paddings, index: int) -> Any:
        """Return a V1 layer from a V0 one."""
        v0 = old.layer
        inner = place.fields.pop("layer", [Places(place.span)])[0]
        label = f"'{v0.name}' ({v0.type})"
        new = type(old)()
        new.CopyFrom(old)
        new.ClearField("layer")
        for i, bottom in paddings.bottoms.get(index, {}).items():
            new.bottom[i] = bottom
        v1_type, settings = _V0_TYPES.get(v0.type, ("NONE", ""))
        if v0.type not in _V0_TYPES:
            self._add(
                f"unknown layer type '{v0.type}'",
                inner.find("type").span,
                label,
                expected=f"one of: {', '.join(_V0_TYPES)}",
                hint=nearest(v0.type, _V0_TYPES),
            )
        type_enum = new.DESCRIPTOR.fields_by_name["type"].enum_type
        new.type = type_enum.values_by_name[v1_type].number
        inner.move("type", place, "type")
        pad = paddings.pads.get(index)
        left_out: list[str] = []
        for setting, value in v0.ListFields():
            name = setting.name
            if name in _V0_KEPT:
                if setting.is_repeated:
                    getattr(new, name).extend(value)
                else:
                    setattr(new, name, value)
                inner.move(name, place, name)
            elif name in _V0_TRANSFORMS:
                _assign(new.transform_param, _V0_TRANSFORMS[name], value)
                inner.move(name, place.child("transform_param"), _V0_TRANSFORMS[name])
            elif name == "hdf5_output_param" and v0.type == "hdf5_output":
                new.hdf5_output_param.CopyFrom(value)
                inner.move(name, place, name)
            elif name == "pad" and pad is not None:
                continue
            elif v0.type in _V0_SETTINGS.get(name, ("", ""))[1].split():
                current = _V0_SETTINGS[name][0]
                _assign(getattr(new, settings), current, value)
                inner.move(name, place.child(settings), current)
            elif name != "type" and v0.type in _V0_TYPES:
                users = _V0_SETTINGS.get(name, ("", ""))[1].split()
                if users == ["window_data"] and v0.type in _V0_WHOLE_IMAGES:
                    left_out.append(name)
                    continue
                self._add(
                    f"a layer of type '{v0.type}' does not know '{name}'",
                    inner.find(name).span,
                    label,
                    expected=f"'{name}' only in layers of type {', '.join(users)}" if users else "",
                    hint="delete it, or look at the type",
                )
        if left_out:
            self.changes.append(
                f"layer '{v0.name}': {', '.join(left_out)} left out, which count in layers of type "
                f"'window_data', not '{v0.type}'"
            )
        if pad is not None:
            _assign(getattr(new, settings), "pad", pad[0])
            place.child(settings).fields["pad"] = [pad[1]]
        return new

    def _move_transforms(self, layer: Any, place: Places) -> None:
        old_type = _enum_name(layer, "type")
        holder = _V1_TRANSFORMED.get(old_type)
        if holder is None or not layer.HasField(holder):
            return
        settings = getattr(layer, holder)
        movable = _MOVED_TRANSFORMS + ("mean_value",) * (old_type in _VIDEO_TYPES)
        moved = [name for name in movable if settings.HasField(name)]
        for name in moved:
            _assign(layer.transform_param, name, getattr(settings, name))
            settings.ClearField(name)
            transforms = place.child("transform_param")
            transforms.fields.pop(name, None)
            place.child(holder).move(name, transforms, name)
        if moved:
            self.changes.append(
                f"layer '{layer.name}': {', '.join(moved)} moved from {holder} to transform_param"
            )

    def _to_current(self, old: Any, place: Places, new: Any) -> None:
        """Fill `new`, a LayerParameter, from a V1 layer; `place` is changed to be that of `new`."""
        for setting, value in old.ListFields():
            name = setting.name
            if name == "type":
                new.type = V1_TYPE_NAMES[_enum_name(old, "type")]
            elif name in _V1_PARAM_FIELDS:
                for i, item in enumerate(value):
                    while len(new.param) <= i:
                        new.param.add()
                    setattr(new.param[i], _V1_PARAM_FIELDS[name], item)
            elif setting.is_repeated:
                getattr(new, name).extend(value)
            else:
                _assign(new, name, value)
        specs: list[Places] = []
        for name, current in _V1_PARAM_FIELDS.items():
            for i, item in enumerate(place.fields.pop(name, [])):
                while len(specs) <= i:
                    specs.append(Places(item.span))
                specs[i].add(current, item)
        if specs:
            place.fields["param"] = specs

    def _move_settings(self, old_type: str, layer: Any, place: Places) -> None:
        """Move the settings of an upgraded layer to the message that its type reads today."""
        before, now = _V1_MOVED.get(old_type, ("", ""))
        if not before or not layer.HasField(before):
            return
        holder, target = getattr(layer, before), getattr(layer, now)
        old_place = place.fields.pop(before, [Places(place.span)])[0]
        new_place = Places(old_place.span)
        place.fields[now] = [new_place]
        known = target.DESCRIPTOR.fields_by_name
        for setting, value in holder.ListFields():
            name, span = setting.name, old_place.find(setting.name).span
            label = f"'{layer.name}' ({old_type})"
            if name not in known:
                self._add(f"a layer of type {old_type} does not know '{name}'", span, label)
                continue
            if setting.is_repeated and not known[name].is_repeated:
                if len(value) > 1:
                    self._add(
                        f"{name} of a layer of type {old_type} takes one value",
                        span,
                        label,
                        expected=f"{name}: N",
                        got=f"{len(value)} values",
                    )
                value = value[0]
            if known[name].type == FieldDescriptor.TYPE_BOOL:
                value = bool(value)
            _assign(target, name, value)
            old_place.move(name, new_place, name)
        if old_type == "VIDEO_DATA":
            # Said even if it is the default: it tells whose VideoData this is.
            target.use_image = target.use_image
        layer.ClearField(before)
        self.changes.append(f"layer '{layer.name}': {before} is now {now}")

    # Inputs

    def _upgrade_inputs(self) -> None:
        net, places = self.net, self.places
        given = [name for name in ("input", "input_shape", "input_dim") if getattr(net, name)]
        if not given:
            return
        if given == ["input"] and set(net.input) <= {top for x in net.layer for top in x.top}:
            # Caffe drops inputs without shapes, as weights files have them.
            net.ClearField("input")
            places.fields.pop("input", None)
            self.changes.append("the inputs, which layers give, left out")
            return
        shapes = self._input_shapes()
        if shapes is not None and net.input:
            new = type(net)().layer.add()
            new.name = "input"
            new.type = "Input"
            new.top.extend(net.input)
            for shape in shapes:
                new.input_param.shape.add().dim.extend(shape)
            net.layer.insert(0, new)
            place = Places(places.find("input").span)
            for top in places.fields.get("input", []):
                place.add("top", top)
            inside = Places(places.find(given[-1]).span)
            for i in range(len(shapes)):
                inside.add("shape", self._place_of_shape(i))
            place.add("input_param", inside)
            places.fields.setdefault("layer", []).insert(0, place)
            self.changes.append(
                f"input {_quote(list(net.input))} rewritten as a layer of type Input"
            )
        elif shapes is not None:
            self.changes.append("the inputs, which a weights file does not need, left out")
        for old in ("input", "input_shape", "input_dim"):
            net.ClearField(old)
            places.fields.pop(old, None)

    def _place_of_shape(self, index: int) -> Places:
        places = self.places
        if self.net.input_shape:
            return places.find("input_shape", index)
        dims = places.fields.get("input_dim", [])[4 * index : 4 * index + 4]
        place = Places(dims[0].span if dims else places.span)
        for dim in dims:
            place.add("dim", dim)
        return place

    def _input_shapes(self) -> list[list[int]] | None:
        """Return one shape for each input, or None after a complaint."""
        net = self.net
        n_inputs, dims = len(net.input), list(net.input_dim)
        by_shape = [list(shape.dim) for shape in net.input_shape]
        by_dim = [dims[i : i + 4] for i in range(0, len(dims), 4)]
        if self.for_weights and not (n_inputs and n_inputs in (len(by_shape), len(dims) / 4)):
            net.ClearField("input")
            return []
        if not n_inputs:
            name = "input_shape" if by_shape else "input_dim"
            self._add(
                f"{name} without input",
                self.places.find(name).span,
                expected='input: "name" before it',
            )
        elif by_shape and by_dim and by_shape != by_dim:
            self._add(
                "input_shape and input_dim contradict each other",
                self.places.find("input_dim").span,
                expected="one of the two",
                hint="delete input_dim, the older of the two",
            )
        elif by_shape and len(by_shape) != n_inputs:
            self._add(
                "the number of shapes is not that of the inputs",
                self.places.find("input_shape").span,
                expected="one input_shape { } for each input",
                got=f"{_count(n_inputs, 'input')} ({_quote(list(net.input))}), "
                f"{_count(len(by_shape), 'input_shape')}",
            )
        elif not by_shape and not dims:
            self._add(
                f"no shape is given for input {_quote(list(net.input))}",
                self.places.find("input").span,
                expected="input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }",
                hint='or a layer { type: "Input" } with input_param { shape { ... } }',
            )
        elif not by_shape and len(dims) != 4 * n_inputs:
            self._add(
                "the number of input_dim is not four for each input",
                self.places.find("input_dim").span,
                expected=f"{4 * n_inputs} input_dim for {_count(n_inputs, 'input')}",
                got=str(len(dims)),
                hint="input_shape { } allows any number of axes",
            )
        else:
            return by_shape or by_dim
        return None

    # BatchNorm

    def _upgrade_batch_norms(self) -> None:
        """Freeze the statistics of BatchNorm layers that list all three of them.

        Such layers are from the time when they had to: with lr_mult other than 0, the solver would
        train the running mean.
        """
        changed = []
        for layer in self.net.layer:
            if not _is_old_batch_norm(layer):
                continue
            if any(spec.lr_mult or spec.decay_mult for spec in layer.param):
                changed.append(layer.name)
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
        if changed:
            self.changes.append(
                f"lr_mult and decay_mult of the statistics of BatchNorm {_quote(changed)} set to 0"
            )

    def _upgrade_intel_batch_norms(self) -> None:
        """Say in BatchNorm and Scale layers what IntelCaffe takes from elsewhere.

        It hands `bn_stats_batch_size` of a net to every BatchNorm layer. It computes a BatchNorm
        and the Scale layer behind it as one, and starts the scale as BatchNorm's `filler` says: so
        that is the Scale layer's.
        """
        net = self.net
        if net.HasField("bn_stats_batch_size"):
            for layer, place in self._layers_and_places():
                if layer.type == "BatchNorm":
                    layer.batch_norm_param.stats_batch_size = net.bn_stats_batch_size
                    size = Places(self.places.find("bn_stats_batch_size").span)
                    place.child("batch_norm_param").fields["stats_batch_size"] = [size]
            net.ClearField("bn_stats_batch_size")
            self.places.fields.pop("bn_stats_batch_size", None)
            self.changes.append("bn_stats_batch_size moved from the net to its BatchNorm layers")
        moved = [
            layer.name
            for index, (layer, _) in enumerate(self._layers_and_places())
            if _has_intel_filler(layer) and self._fill_scale(index)
        ]
        if moved:
            self.changes.append(f"filler of BatchNorm {_quote(moved)} moved to the Scale behind")

    # Convolution

    def _upgrade_holes(self) -> None:
        """Write DeepLab's `hole`, or `hole_h` and `hole_w`, as `dilation`."""
        changed = []
        for layer, place in self._layers_and_places():
            if not (names := _holes(layer)):
                continue
            param, settings = layer.convolution_param, place.child("convolution_param")
            if ("hole" in names and len(names) > 1) or param.dilation:
                others = [*names[1:], *(["dilation"] if param.dilation else [])]
                self._add(
                    "the dilation of a convolution is given twice",
                    settings.find(others[0]).span,
                    f"'{layer.name}'",
                    expected="one of dilation, hole, and hole_h with hole_w",
                    got=" and ".join([names[0], *others]),
                )
                continue
            sides = ("hole",) if "hole" in names else ("hole_h", "hole_w")
            for name in sides:
                param.dilation.append(getattr(param, name))
                param.ClearField(name)
                settings.move(name, settings, "dilation")
            changed.append(layer.name)
        if changed:
            self.changes.append(f"hole of {_quote(changed)} is now dilation")

    def _layers_and_places(self) -> list[tuple[Any, Places]]:
        places = self.places.fields.get("layer", [])
        return [
            (layer, places[i] if i < len(places) else Places(self.places.span))
            for i, layer in enumerate(self.net.layer)
        ]

    def _fill_scale(self, index: int) -> bool:
        """Move the fillers of a BatchNorm to the Scale that reads its top; say whether it did."""
        layers = self._layers_and_places()
        norm, norm_place = layers[index]
        readers = (pair for pair in layers[index + 1 :] if set(norm.top) & set(pair[0].bottom))
        scale, scale_place = next(readers, (norm, norm_place))
        if scale.type != "Scale" or len(scale.bottom) != 1:
            return False
        source, target = norm.batch_norm_param, scale.scale_param
        fillers = [name for name in ("filler", "bias_filler") if source.HasField(name)]
        if any(target.HasField(f) and getattr(target, f) != getattr(source, f) for f in fillers):
            # Which of them counts depends on the engine: BatchNorm does not read it, and says so.
            return False
        for name in fillers:
            _assign(target, name, getattr(source, name))
            source.ClearField(name)
            settings = scale_place.child("scale_param")
            settings.fields.pop(name, None)
            norm_place.child("batch_norm_param").move(name, settings, name)
        return True


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1 and not noun.startswith('input_'))}"


class _Paddings:
    """V0 layers of type "padding", to be folded into the convolution or pooling that reads them."""

    def __init__(self, upgrade: _NetUpgrade) -> None:
        self.upgrade = upgrade
        self.layers = upgrade.net.layers
        self.places = upgrade.places
        self.folded = {i for i, old in enumerate(self.layers) if old.layer.type == "padding"}
        # Of the reader: its pad and the place of that, and what its bottoms become.
        self.pads: dict[int, tuple[int, Places]] = {}
        self.bottoms: dict[int, dict[int, str]] = {}
        self.changes: list[str] = []
        if self.folded:
            self._fold()

    def _fold(self) -> None:
        producers: dict[str, int] = {}
        read = set()
        for index, old in enumerate(self.layers):
            for i, bottom in enumerate(old.bottom):
                if (source := producers.get(bottom)) in self.folded:
                    assert source is not None
                    read.add(source)
                    self._fold_one(source, index, i)
            producers |= {top: index for top in old.top}
        for index in sorted(self.folded - read):
            self._add(index, "no layer reads this padding", "a conv or pool layer behind it")

    def _fold_one(self, source: int, index: int, bottom: int) -> None:
        reader, padding = self.layers[index], self.layers[source]
        if reader.layer.type not in ("conv", "pool") or len(reader.bottom) != 1:
            self._add(
                source,
                f"this padding is read by layer '{reader.layer.name}', which cannot pad",
                "a layer of type conv or pool with one bottom",
                f"type {reader.layer.type}, {_count(len(reader.bottom), 'bottom')}",
            )
            return
        if len(padding.bottom) != 1 or len(padding.top) != 1:
            self._add(
                source,
                "a padding layer has one bottom and one top",
                "one of each",
                f"{_count(len(padding.bottom), 'bottom')}, {_count(len(padding.top), 'top')}",
            )
            return
        place = self.places.find("layers", source, "layer", 0, "pad")
        self.pads[index] = (padding.layer.pad, Places(place.span))
        self.bottoms[index] = {bottom: padding.bottom[0]}
        self.changes.append(
            f"padding layer '{padding.layer.name}' folded into '{reader.layer.name}' "
            f"as pad: {padding.layer.pad}"
        )

    def _add(self, index: int, what: str, expected: str, got: str = "") -> None:
        span = self.places.find("layers", index).span
        name = self.layers[index].layer.name
        self.upgrade._add(what, span, f"'{name}' (padding)", expected, got)

"""Fields by which forks of Caffe choose how something is computed, not what.

They are accepted and have no effect: netc's planner and its readers choose for themselves. Every
other field that nobody reads is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from netc.schema.descriptors import descriptor_of

IMPLEMENTATION_FIELDS = frozenset(
    f"{message}.{name}"
    for message, names in {
        # Precision and memory of NVCaffe, whose scaling of gradients undoes itself; distribution
        # and marks of IntelCaffe's own passes.
        "NetParameter": "default_forward_type default_backward_type default_forward_math "
        "default_backward_math default_conv_algos_override default_cudnn_math_override "
        "global_grad_scale global_grad_scale_adaptive reduce_buckets eltwise_mem_sharing "
        "compile_net_state engine multinode",
        "LayerParameter": "forward_type backward_type forward_math backward_math debug "
        "cudnn_math_override engine multinode mn_grad_compress_param quantization_param "
        # DeepLab: whether weights of other axes may be loaded, which netc decides by their layers.
        "strict_dim "
        # caffe-heatmap: windows in which images and maps are shown.
        "visualise visualise_channel",
        "SolverParameter": "solver_data_type store_blobs_in_old_format engine richness",
        # Which library, which algorithm of it.
        "BatchNormParameter": "engine",
        "BNParameter": "engine",
        "ConcatParameter": "engine",
        "ConvolutionParameter": "cudnn_convolution_algo_seeker conv_algos_override conv_algorithm",
        "Convolution3DParameter": "group",  # which C3D does not read
        "DropoutParameter": "engine",
        "EltwiseParameter": "engine",
        "InnerProductParameter": "engine",
        "ReLUParameter": "fuse",
        "SplitParameter": "engine",
        # Read by nobody in its fork.
        "HeatmapDataParameter": "num_channels crop_meanfile",
        "LabelSpecificRescaleParameter": "positive_lower_bound negative_upper_bound",
        # The same, and pictures that are written on the way.
        "CPMTransformationParameter": "visualize scale_cvg max_cvg_len min_cvg_len opaque_coverage "
        "coverage bbox_norm_factor img_header sigma_center num_total_augs",
        # Whether something is kept or computed again.
        "APLParameter": "save_mem",
        # Threads and caches of readers.
        "DataParameter": "threads parser_threads cache precache",
        "ImageDataParameter": "threads cache precache show_data",
        "MemoryDataParameter": "share_in_parallel",
        "VideoDataParameter": "show_data",  # in windows on the screen
        "TransformationParameter": "use_gpu_transform display",
    }.items()
    for name in names.split()
)
"""By full name: "ConvolutionParameter.conv_algorithm"."""


def chooses_implementation(message: Message, path: Sequence[str]) -> bool:
    """Tell whether the field at the end of `path`, from `message` on, is one of those."""
    descriptor = descriptor_of(message)
    for step in path[:-1]:
        inner = descriptor.fields_by_name[step].message_type
        assert inner is not None
        descriptor = inner
    return f"{descriptor.name}.{path[-1]}" in IMPLEMENTATION_FIELDS

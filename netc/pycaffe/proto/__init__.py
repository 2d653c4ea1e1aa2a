"""The messages under pycaffe's name for them: `from netc.pycaffe.proto import caffe_pb2`."""

import sys

from netc.schema import netc_pb2 as caffe_pb2

# So that `import netc.pycaffe.proto.caffe_pb2` finds it, as a module of this package.
sys.modules[f"{__name__}.caffe_pb2"] = caffe_pb2

__all__ = ["caffe_pb2"]
